//! The faults of a tree.

use crate::graph::{Arrows, Place, circles, shortest};
use crate::load::load;
use crate::mentions::mentions;
use crate::sources::Sources;
use crate::table::{Layer, covers};
use std::collections::{BTreeMap, BTreeSet};

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// All files that are not for tests alone.
    pub files: Vec<String>,
    /// All arrows between them.
    pub arrows: Arrows,
    /// One text for each fault; none if the tree is as it should be.
    pub faults: Vec<String>,
}

/// Checks the files of one crate's source folder, which is called `name` in messages.
pub fn check(name: &str, sources: &Sources, layers: Option<&[Layer]>) -> Report {
    let tree = load(sources);
    let mut arrows = Arrows::new();
    for mention in mentions(&tree) {
        let [from, to] = [mention.from, mention.to].map(|file| tree.files[file].path.clone());
        let places = arrows.entry((from, to)).or_default();
        let place = Place { line: mention.line, name: mention.name };
        if !places.contains(&place) {
            places.push(place);
        }
    }
    arrows.values_mut().for_each(condense);

    let mut faults: Vec<String> = tree.faults.iter().map(|fault| format!("{name}/{fault}")).collect();
    faults.extend(circles(&arrows).iter().map(|circle| describe(name, &arrows, circle)));
    let files = tree.files.iter().filter(|file| !file.only_tests);
    if let Some(layers) = layers {
        // A root shows what all layers have; nothing is below it, and it stands on everything.
        let files = files.clone().filter(|file| !file.is_root).map(|file| file.path.as_str());
        let level = levels(name, files, layers, &mut faults);
        let roots: Vec<&str> = tree.files.iter().filter(|file| file.is_root).map(|file| file.path.as_str()).collect();
        upwards(name, &arrows, &level, &roots, layers, &mut faults);
    }
    let files = files.map(|file| file.path.clone()).collect();
    Report { files, arrows, faults }
}

/// Leaves the first mention of each name, and no mention of what is imported under that name.
fn condense(places: &mut Vec<Place>) {
    // What has the most segments of one line is the import.
    places.sort_by_key(|place| (place.line, std::cmp::Reverse(place.name.matches("::").count())));
    let mut seen = BTreeSet::new();
    places.retain(|place| {
        let first = place.name.split("::").next().unwrap_or_default();
        let is_new = !seen.contains(first) && !seen.contains(place.name.as_str());
        let last = place.name.rsplit("::").next().unwrap_or_default();
        seen.extend([last.to_owned(), place.name.clone()]);
        is_new
    });
}

/// The shortest way round, with the first line of each arrow, and the other arrows of the circle.
fn describe(name: &str, arrows: &Arrows, circle: &[String]) -> String {
    let mut text = format!("{name}: circle of {} files: {}", circle.len(), circle.join(" "));
    let way = shortest(arrows, circle);
    let is_on_way = |from: &String, to: &String| way.windows(2).any(|step| step[0] == *from && step[1] == *to);
    for on_way in [true, false] {
        for ((from, to), places) in arrows {
            if circle.contains(from) && circle.contains(to) && is_on_way(from, to) == on_way {
                let mark = if on_way { "shortest way round: " } else { "" };
                text.push_str(&format!("\n    {mark}{}", arrow(name, from, to, places)));
            }
        }
    }
    text
}

/// `src/a.rs:3 -> src/b.rs: crate::b::B, line 9: b::f`
fn arrow(name: &str, from: &str, to: &str, places: &[Place]) -> String {
    let line = places.first().map_or(0, |place| place.line);
    let mut text = format!("{name}/{from}:{line} -> {name}/{to}:");
    for (i, place) in places.iter().enumerate() {
        match i {
            0 => text.push_str(&format!(" {}", place.name)),
            _ => text.push_str(&format!(", line {}: {}", place.line, place.name)),
        }
    }
    text
}

/// The layer of each file, by number. Each file has exactly one, and each entry of the table has
/// files.
fn levels<'f>(
    name: &str,
    files: impl Iterator<Item = &'f str>,
    layers: &[Layer],
    faults: &mut Vec<String>,
) -> BTreeMap<&'f str, usize> {
    let mut level = BTreeMap::new();
    let mut unused: Vec<(&Layer, &str)> =
        layers.iter().flat_map(|layer| layer.entries.iter().map(move |entry| (layer, entry.as_str()))).collect();
    for file in files {
        let found: Vec<usize> =
            (0..layers.len()).filter(|i| layers[*i].entries.iter().any(|entry| covers(entry, file))).collect();
        unused.retain(|(_, entry)| !covers(entry, file));
        match found[..] {
            [] => faults.push(format!("{name}/{file}: in no layer of the table")),
            [only] => _ = level.insert(file, only),
            _ => {
                let names: Vec<&str> = found.iter().map(|i| layers[*i].name.as_str()).collect();
                faults.push(format!("{name}/{file}: in more than one layer of the table: {}", names.join(", ")));
            }
        }
    }
    for (layer, entry) in unused {
        faults.push(format!("{name}: layer {} has `{entry}` in the table, where no file is", layer.name));
    }
    level
}

/// Imports from a lower layer to a higher one. A root is above all.
fn upwards(
    name: &str,
    arrows: &Arrows,
    level: &BTreeMap<&str, usize>,
    roots: &[&str],
    layers: &[Layer],
    faults: &mut Vec<String>,
) {
    for ((from, to), places) in arrows {
        let Some(lower) = level.get(from.as_str()) else { continue };
        let above = match level.get(to.as_str()) {
            Some(higher) if higher > lower => format!("layer {}", layers[*higher].name),
            None if roots.contains(&to.as_str()) => "the crate's root".to_owned(),
            _ => continue,
        };
        faults.push(format!(
            "{}\n    is an import upwards: layer {} stands below {above} and knows nothing of it",
            arrow(name, from, to, places),
            layers[*lower].name
        ));
    }
}
