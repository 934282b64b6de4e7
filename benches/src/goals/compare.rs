//! Two builds beside each other: passes of both in turns, and for each figure the median of the
//! pairs' ratios.

use super::{measure, range, this_program, time};
use crate::sample::Samples;
use std::collections::BTreeMap;
use std::path::Path;

/// A change of less than this counts as noise: two builds of the same code, whose functions lie at
/// other addresses, differ by as much.
const LEAST: f64 = 0.03;

#[derive(Debug, PartialEq)]
enum Verdict {
    Noise,
    Faster,
    Slower,
}

/// Whether the ratios (new to old) show a change. For builds that take the same time, each ratio is
/// as likely above 1 as below. A change needs so many ratios on one side of 1 that this happens by
/// chance once in a thousand times. With fewer than eleven ratios nothing can show that.
fn verdict(ratios: &Samples) -> Verdict {
    let count = ratios.count();
    let below = ratios.count_below(1.0);
    let slower = ratios.median() > 1.0;
    // Ratios on the wrong side.
    let others = if slower { below } else { count - below };
    if two_sided(count, others) > 0.001 || (ratios.median() - 1.0).abs() < LEAST {
        Verdict::Noise
    } else if slower {
        Verdict::Slower
    } else {
        Verdict::Faster
    }
}

/// The probability that of `count` throws of a coin at most `few` are heads, or at most `few`
/// tails.
fn two_sided(count: usize, few: usize) -> f64 {
    let mut ways = 1.0;
    let mut sum = 0.0;
    for heads in 0..=few {
        sum += ways;
        ways *= (count - heads) as f64 / (heads + 1) as f64;
    }
    (2.0 * sum / 2_f64.powi(count as i32)).min(1.0)
}

/// Compares this program, the new build, with `old`.
pub fn print(old: &Path, pairs: usize) {
    let new = this_program();
    let mut figures: BTreeMap<String, [Samples; 3]> = BTreeMap::new();
    for turn in 0..pairs {
        // Each is the first one in half of the pairs.
        let (before, after) = if turn % 2 == 0 {
            let before = measure(old);
            (before, measure(&new))
        } else {
            let after = measure(&new);
            (measure(old), after)
        };
        for (name, after) in after {
            let Some(&before) = before.get(&name) else { continue };
            let [olds, news, ratios] = figures.entry(name).or_default();
            olds.push(before);
            news.push(after);
            ratios.push(after / before);
        }
        eprintln!("pair {} of {pairs}", turn + 1);
    }
    println!("\n{pairs} pairs of processes in turns. Ratio: new to old, the median of the pairs' ratios.\n");
    println!("| figure | old | new | ratio | the middle eight tenths | verdict |\n|---|---|---|---|---|---|");
    for (name, [olds, news, ratios]) in &figures {
        let verdict = match verdict(ratios) {
            Verdict::Noise => "noise",
            Verdict::Faster => "**faster**",
            Verdict::Slower => "**slower**",
        };
        let (old, new) = (time(olds.median()), time(news.median()));
        println!("| {name} | {old} | {new} | {:.3} | {} | {verdict} |", ratios.median(), range(ratios));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_on_both_sides_of_one_are_noise() {
        let ratios = Samples::of((0..15).map(|number| if number % 3 == 0 { 0.8 } else { 1.2 }));
        assert_eq!(verdict(&ratios), Verdict::Noise);
    }

    #[test]
    fn ratios_on_one_side_are_a_change() {
        let with_one_outlier = |usual, outlier| {
            Samples::of(std::iter::once(outlier).chain((0..14).map(move |number| usual + f64::from(number) / 1e3)))
        };
        assert_eq!(verdict(&with_one_outlier(1.1, 0.5)), Verdict::Slower);
        assert_eq!(verdict(&with_one_outlier(0.8, 1.5)), Verdict::Faster);
    }

    #[test]
    fn a_change_of_a_hundredth_is_noise() {
        assert_eq!(verdict(&Samples::of((0..15).map(|_| 1.01))), Verdict::Noise);
    }

    #[test]
    fn ten_pairs_show_nothing() {
        assert_eq!(verdict(&Samples::of((0..10).map(|_| 2.0))), Verdict::Noise);
        assert_eq!(verdict(&Samples::of((0..11).map(|_| 2.0))), Verdict::Slower);
    }
}
