//! Numbers that only look random: the same for the same seed, everywhere; and how to see again what they led to.

use std::{env, thread};

/// A source of them (splitmix64), with its seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: i32, high: i32) -> i32 {
        let span = u64::try_from(high - low + 1).expect("low comes first");
        low + i32::try_from(self.next() % span).expect("it is less than an i32")
    }

    /// Whether it comes up: once in so many times.
    pub fn one_in(&mut self, times: i32) -> bool {
        self.between(1, times) == 1
    }

    /// One of these.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let index = usize::try_from(self.next() % from.len() as u64).expect("it is in the slice");
        &from[index]
    }

    /// One of these; `None` if there is none.
    pub fn pick_any<T: Clone>(&mut self, from: impl IntoIterator<Item = T>) -> Option<T> {
        let all: Vec<T> = from.into_iter().collect();
        if all.is_empty() { None } else { Some(self.pick(&all).clone()) }
    }
}

/// The number that an environment variable gives, where it is set.
///
/// # Panics
///
/// If it gives something else.
pub fn setting(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Says how to see a failure again, where its test panics: with these environment variables.
#[derive(Debug)]
pub struct Again(pub String);

impl Drop for Again {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("to see it again: {}", self.0);
        }
    }
}
