//! Months for models that share nothing with the product.

/// A month: twelve times the year, and from 0 to 11.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(pub i32);

impl Month {
    /// The month of a year, from 1.
    pub const fn of(year: i32, month: i32) -> Self {
        Self(year * 12 + month - 1)
    }

    /// So many months later.
    pub const fn plus(self, months: i32) -> Self {
        Self(self.0 + months)
    }

    /// The year, and the month of it from 1.
    pub const fn year_and_month(self) -> (i32, i32) {
        (self.0.div_euclid(12), self.0.rem_euclid(12) + 1)
    }

    /// One of its days.
    pub fn day(self, day: i32) -> String {
        let (year, month) = self.year_and_month();
        format!("{year:04}-{month:02}-{day:02}")
    }

    /// Its first day.
    pub fn first_day(self) -> String {
        self.day(1)
    }

    /// The name of its partition.
    pub fn partition(self) -> String {
        let (year, month) = self.year_and_month();
        format!("workflow_events_y{year:04}m{month:02}")
    }
}
