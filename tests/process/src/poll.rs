//! Waiting for a condition: the only place that sleeps.

use std::thread;
use std::time::{Duration, Instant};

/// How long the harness itself waits for anything. Generous, because a busy machine is no failure.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The pause between two looks, at first. A look may start a session, so who waits for long looks less often: what else
/// runs on the machine needs its processors too.
const PAUSE: Duration = Duration::from_millis(20);

/// The longest pause. It is an eighth of the time waited so far, until it is as long as this.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Calls `look` until it gives a value, and gives that; `None` once `deadline` has passed without one.
///
/// `look` is called at least once, and once more after the deadline.
pub fn poll_until<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        let late = begin.elapsed() >= deadline;
        if let Some(found) = look() {
            return Some(found);
        }
        if late {
            return None;
        }
        thread::sleep((begin.elapsed() / 8).clamp(PAUSE, LONGEST_PAUSE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_what_the_look_finds() {
        let mut looks = 0;
        let found = poll_until(DEADLINE, || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found, Some(3));
    }

    #[test]
    fn gives_up_after_the_deadline() {
        assert_eq!(poll_until(Duration::ZERO, || None::<()>), None);
    }
}
