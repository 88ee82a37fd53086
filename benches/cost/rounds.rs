//! The order of what is compared: in turn, so that whatever else the machine does falls on all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::Fallible;
use crate::figures::Samples;
use crate::progress::Progress;

/// Between two things that are paced, as in life. The first of them has gone by then, with its cgroup.
pub const PAUSE: Duration = Duration::from_millis(130);

/// How many of one kind follow each other where they are not paced.
const ROW: usize = 20;

/// One of what is compared.
pub struct Contender<'a> {
    pub label: String,
    /// Does it once, and tells how long that took.
    pub once: Box<dyn FnMut() -> Fallible<Duration> + 'a>,
}

impl<'a> Contender<'a> {
    pub fn new(label: &str, once: impl FnMut() -> Fallible<Duration> + 'a) -> Self {
        Self { label: label.to_owned(), once: Box::new(once) }
    }
}

/// Set by SIGINT and SIGTERM: what was made is taken back before it ends.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub fn catch() -> Fallible<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, flag.clone())?;
        }
        Ok(Self(flag))
    }

    pub fn check(&self) -> Fallible<()> {
        if self.0.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
    }
}

/// Each once in every round, in random order and at this pace.
pub fn paced(
    (title, pause): (&str, Duration),
    contenders: &mut [Contender<'_>],
    rounds: usize,
    (progress, interrupt): (&Progress, &Interrupt),
) -> Fallible<Vec<(String, Samples, String)>> {
    let mut samples = vec![Samples::default(); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    for round in 0..=rounds {
        fastrand::shuffle(&mut order);
        progress.say(&format!("{title}: round {round} of {rounds}"));
        for at in &order {
            interrupt.check()?;
            std::thread::sleep(pause);
            let took = (contenders[*at].once)()?;
            // The first round finds everything cold.
            if round > 0 {
                samples[*at].add(took);
            }
        }
    }
    Ok(labelled(contenders, samples))
}

/// As many, in rows of one kind without a pause.
pub fn back_to_back(
    title: &str,
    contenders: &mut [Contender<'_>],
    rounds: usize,
    (progress, interrupt): (&Progress, &Interrupt),
) -> Fallible<Vec<(String, Samples, String)>> {
    let mut samples = vec![Samples::default(); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    let rows = rounds.div_ceil(ROW).max(2);
    for row in 0..rows {
        fastrand::shuffle(&mut order);
        progress.say(&format!("{title}: row {} of {rows}", row + 1));
        for at in &order {
            interrupt.check()?;
            std::thread::sleep(PAUSE);
            // The first one of a row pays for what those before it did not keep warm.
            (contenders[*at].once)()?;
            for _ in 0..ROW {
                samples[*at].add((contenders[*at].once)()?);
            }
        }
    }
    Ok(labelled(contenders, samples))
}

fn labelled(contenders: &[Contender<'_>], samples: Vec<Samples>) -> Vec<(String, Samples, String)> {
    contenders.iter().zip(samples).map(|(each, samples)| (each.label.clone(), samples, String::new())).collect()
}
