//! Waiting for a condition: the only place that sleeps.

use std::thread;
use std::time::{Duration, Instant};

/// How long the harness itself waits for anything. Generous, because a busy machine is no failure.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Calls `look` until it gives a value, and gives that; `None` once `deadline` has passed without one.
///
/// `look` is called at least once, and once more after the deadline.
pub fn poll_until<T>(deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        let late = Instant::now() >= end;
        if let Some(found) = look() {
            return Some(found);
        }
        if late {
            return None;
        }
        thread::sleep(PAUSE);
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
