//! Arrows between files, and their circles.

use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// One place in a file that mentions another file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// What is mentioned, as it is written.
    pub name: String,
}

/// From a file to a file, with the places that make the arrow.
pub type Arrows = BTreeMap<(String, String), Vec<Place>>;

/// Sets of files each of which leads to each, sorted.
pub fn circles(arrows: &Arrows) -> Vec<Vec<String>> {
    let mut graph = DiGraph::<&str, ()>::new();
    let mut nodes = HashMap::<&str, NodeIndex>::new();
    for (from, to) in arrows.keys() {
        let [from, to] = [from, to].map(|file| *nodes.entry(file).or_insert_with(|| graph.add_node(file)));
        graph.add_edge(from, to, ());
    }
    let components = tarjan_scc(&graph).into_iter().filter(|component| component.len() > 1);
    let mut found: Vec<Vec<String>> = components
        .map(|component| {
            let files: BTreeSet<&str> = component.into_iter().map(|node| graph[node]).collect();
            files.into_iter().map(str::to_owned).collect()
        })
        .collect();
    found.sort();
    found
}

/// The shortest way round within a circle, from its first file that is on one: the first file
/// stands at the end again.
pub fn shortest(arrows: &Arrows, circle: &[String]) -> Vec<String> {
    let ways = circle.iter().filter_map(|start| {
        let mut came_from = BTreeMap::<&str, &str>::new();
        let mut queue = VecDeque::from([start.as_str()]);
        while let Some(file) = queue.pop_front() {
            for (from, to) in arrows.keys() {
                if from != file || !circle.contains(to) || came_from.contains_key(to.as_str()) {
                    continue;
                }
                came_from.insert(to, from);
                if to == start {
                    let mut way = vec![start.clone()];
                    let mut at = came_from[start.as_str()];
                    while at != start {
                        way.push(at.to_owned());
                        at = came_from[at];
                    }
                    way.push(start.clone());
                    way.reverse();
                    return Some(way);
                }
                queue.push_back(to);
            }
        }
        None
    });
    ways.min_by_key(Vec::len).unwrap_or_default()
}
