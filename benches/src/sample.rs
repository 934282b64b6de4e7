//! Samples: of criterion's loops, kept for the table, and of events that a loop cannot repeat.

use criterion::{Criterion, measurement::WallTime};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Many measurements, in nanoseconds.
#[derive(Default, Clone)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// No measurements yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// These measurements.
    pub fn of(measurements: impl Iterator<Item = f64>) -> Self {
        Self(measurements.collect())
    }

    /// How many measurements there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// How many measurements are less than `limit`.
    pub fn count_below(&self, limit: f64) -> usize {
        self.0.iter().filter(|&&measurement| measurement < limit).count()
    }

    /// Adds a measurement.
    pub fn push(&mut self, nanoseconds: f64) {
        self.0.push(nanoseconds);
    }

    /// The middle measurement.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The mean of the middle half. Where the clock has steps of ten nanoseconds, the median has
    /// too.
    pub fn middle(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let half = &sorted[sorted.len() / 4..sorted.len() - sorted.len() / 4];
        half.iter().sum::<f64>() / half.len() as f64
    }

    /// The value below which this share of the samples lies.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share) as usize]
    }
}

/// What criterion's loops took, by the benchmark's name: nanoseconds for one turn.
static LOOPS: Mutex<BTreeMap<String, Samples>> = Mutex::new(BTreeMap::new());

/// In shorter loops than this criterion finds out how many turns to run.
const SHORTEST: Duration = Duration::from_micros(200);

/// Has criterion measure a loop, and keeps what it took for the table.
pub fn bench(criterion: &mut Criterion<WallTime>, name: &str, run: impl Fn(u64) -> Duration) {
    criterion.bench_function(name, |b| {
        b.iter_custom(|count| {
            let duration = run(count);
            if duration >= SHORTEST {
                let mut loops = LOOPS.lock().expect("nobody panics with it");
                loops.entry(name.into()).or_default().push(duration.as_nanos() as f64 / count as f64);
            }
            duration
        });
    });
}

/// What a benchmark's turn took: the lower quartile, since other work on the machine (caches, the
/// other hardware thread) only adds time.
pub fn loop_time(name: &str) -> f64 {
    let loops = LOOPS.lock().expect("nobody panics with it");
    loops.get(name).unwrap_or_else(|| panic!("{name} was not measured")).quantile(0.25)
}

/// A stopwatch of this thread's processor time: other work on the machine does not count.
pub struct Stopwatch(Duration);

impl Stopwatch {
    /// Starts one.
    pub fn start() -> Self {
        Self(Self::now())
    }

    /// The processor time since the start.
    pub fn elapsed(&self) -> Duration {
        Self::now() - self.0
    }

    fn now() -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: fills in `time`.
        assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }
}

/// Nanoseconds since `start`.
pub fn since(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64
}

/// The difference of two readings of the clock, one right after the other.
pub fn clock() -> f64 {
    let mut samples = Samples::default();
    for _ in 0..10_000 {
        samples.push(since(Instant::now()));
    }
    samples.middle()
}
