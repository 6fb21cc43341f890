//! The migration between a plain table and partitions: its phases, and how fast it goes.
//!
//! ```text
//!  preparing ──> copying ──> catching up ──> analyzing ──> switching ──> verifying ──> cleaning up ──> done
//!      ^            │             │              │             │             │
//!      └── starting over <────────┴──────────────┴─────────────┘             │
//!                   (the table was altered or emptied)                       │
//!                                                                            │
//!  before the switch, undone:  taking back ──> taken back                    │
//!  after the switch, undone:   catching up, the other way round <────────────┘
//! ```
//!
//! Up to the switch nothing but triggers is changed about the table in use, and afterwards the one that it replaced is
//! kept, and kept up to date with, until the two have been compared.

/// Which way a migration goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A plain table becomes a partitioned one.
    Migrate,
    /// A partitioned table becomes a plain one.
    Undo,
}

impl Direction {
    /// The word in SQL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Migrate => "migrate",
            Self::Undo => "undo",
        }
    }

    /// The direction that the word stands for.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Migrate, Self::Undo].into_iter().find(|direction| direction.as_str() == word)
    }

    /// The other one.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::Migrate => Self::Undo,
            Self::Undo => Self::Migrate,
        }
    }
}

/// How far a migration has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Changes are captured, then the shadow is built.
    Preparing,
    /// Rows are copied.
    Copying,
    /// What was changed meanwhile is carried over.
    CatchingUp,
    /// The planner's statistics are made.
    Analyzing,
    /// The names are to be swapped.
    Switching,
    /// The old table and the new one are compared.
    Verifying,
    /// The old table and the triggers are removed.
    CleaningUp,
    /// It has ended.
    Done,
    /// The shadow is removed, because it is no longer like the table.
    StartingOver,
    /// The shadow and the triggers are removed.
    TakingBack,
    /// It was taken back.
    TakenBack,
}

impl Phase {
    const ALL: [Self; 11] = [
        Self::Preparing,
        Self::Copying,
        Self::CatchingUp,
        Self::Analyzing,
        Self::Switching,
        Self::Verifying,
        Self::CleaningUp,
        Self::Done,
        Self::StartingOver,
        Self::TakingBack,
        Self::TakenBack,
    ];

    /// The words in SQL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Copying => "copying",
            Self::CatchingUp => "catching up",
            Self::Analyzing => "analyzing",
            Self::Switching => "switching",
            Self::Verifying => "verifying",
            Self::CleaningUp => "cleaning up",
            Self::Done => "done",
            Self::StartingOver => "starting over",
            Self::TakingBack => "taking back",
            Self::TakenBack => "taken back",
        }
    }

    /// The phase that the words stand for.
    #[must_use]
    pub fn parse(words: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == words)
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::TakenBack)
    }

    /// Whether the table in use is still the one that it was.
    #[must_use]
    pub const fn is_before_switch(self) -> bool {
        matches!(
            self,
            Self::Preparing
                | Self::Copying
                | Self::CatchingUp
                | Self::Analyzing
                | Self::Switching
                | Self::StartingOver
        )
    }

    /// Whether the shadow has to be like the table in use.
    #[must_use]
    pub const fn compares_definitions(self) -> bool {
        matches!(self, Self::Copying | Self::CatchingUp | Self::Analyzing | Self::Switching)
    }
}

/// How fast rows are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How many rows are copied in one transaction.
    pub batch_rows: i32,
    /// How many rows may be copied in a second; 0: without limit.
    pub rows_per_second: i32,
    /// How long to wait between two batches, in milliseconds.
    pub pause_ms: i32,
}

/// The longest wait between two batches, in milliseconds: whoever stops it is heeded at the next.
const LONGEST_PAUSE_MS: i64 = 60_000;

impl Pace {
    /// How many milliseconds to wait after a batch of `rows` that has taken `took_ms`.
    #[must_use]
    pub fn wait_ms(self, rows: i64, took_ms: i64) -> i32 {
        let pause = i64::from(self.pause_ms);
        let limited = match i64::from(self.rows_per_second) {
            0 => 0,
            limit => (rows.saturating_mul(1_000) / limit).saturating_sub(took_ms),
        };
        i32::try_from(pause.max(limited).clamp(0, LONGEST_PAUSE_MS)).unwrap_or(0)
    }
}

/// How many changes may be left in the queue when the switch is tried: a few milliseconds of work.
pub const SHORT_QUEUE: i64 = 200;

/// How often the switch is tried in a moment in which nobody has a snapshot from before the last change was carried over.
///
/// Afterwards those who wait for a lock don't count, nearly all of whom take a new snapshot when they have it. Who doesn't
/// (REPEATABLE READ) misses the changes of that moment; where statements come faster than a commit takes, it can't be helped.
pub const TRIES_BESIDE_WAITING: i32 = 60;

/// How often the switch is tried before nobody counts any more who is busy elsewhere with such a snapshot.
pub const TRIES_BESIDE_SNAPSHOTS: i32 = 200;

/// Whether the switch is tried though somebody is in the way who will be there for longer: once a minute, after five in
/// which there was never a moment without somebody. A queue may get through in such a moment.
#[must_use]
pub const fn insists(phase_age_s: i64) -> bool {
    phase_age_s > 300 && phase_age_s % 60 < 2
}

/// How long to wait before one looks again who is in the way, in milliseconds: an eighth of the time so far, because most
/// transactions are short.
#[must_use]
pub fn look_again_ms(phase_age_s: i64) -> i32 {
    i32::try_from((phase_age_s.saturating_mul(125)).clamp(50, 1_000)).unwrap_or(1_000)
}

/// How long to wait before the switch is tried again, in milliseconds: it was tried `tries` times in vain, and others had
/// to wait for it.
#[must_use]
pub fn switch_back_off_ms(tries: i32, jitter: u8) -> i32 {
    let doubled = 250_i32.saturating_mul(1 << tries.clamp(0, 5));
    doubled + doubled * i32::from(jitter) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_for_one_phase_each() {
        for phase in Phase::ALL {
            assert_eq!(Phase::parse(phase.as_str()), Some(phase));
        }
        assert_eq!(Phase::parse("waiting"), None);
        for direction in [Direction::Migrate, Direction::Undo] {
            assert_eq!(Direction::parse(direction.as_str()), Some(direction));
            assert_eq!(direction.reversed().reversed(), direction);
        }
    }

    #[test]
    fn a_migration_waits_as_long_as_is_wanted() {
        let pace = |rows_per_second, pause_ms| Pace { batch_rows: 1, rows_per_second, pause_ms };
        assert_eq!(pace(0, 0).wait_ms(10_000, 5), 0);
        assert_eq!(pace(0, 30).wait_ms(10_000, 500), 30);
        assert_eq!(pace(1_000, 0).wait_ms(500, 100), 400);
        assert_eq!(pace(1_000, 0).wait_ms(500, 600), 0);
        assert_eq!(pace(1_000, 450).wait_ms(500, 100), 450);
        assert_eq!(pace(1, 0).wait_ms(1_000_000, 0), 60_000);
        assert_eq!(pace(1, 0).wait_ms(i64::MAX, i64::MIN), 60_000);
    }

    #[test]
    fn who_is_in_the_way_is_looked_for_less_often_the_longer_it_takes() {
        assert_eq!([0, 1, 4, 8, 3_600].map(look_again_ms), [50, 125, 500, 1_000, 1_000]);
        assert_eq!(look_again_ms(-5), 50);
    }

    #[test]
    fn the_switch_is_tried_once_a_minute_where_somebody_is_always_in_the_way() {
        assert!(!(0..=300).any(insists));
        let tries: Vec<i64> = (301..500).filter(|age| insists(*age)).collect();
        assert_eq!(tries, [301, 360, 361, 420, 421, 480, 481]);
    }

    #[test]
    fn the_switch_is_tried_less_often_the_longer_it_fails() {
        let waits: Vec<i32> = (0..8).map(|tries| switch_back_off_ms(tries, 0)).collect();
        assert_eq!(waits, [250, 500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000]);
        assert!((2_000..2_500).contains(&switch_back_off_ms(3, 255)));
    }
}
