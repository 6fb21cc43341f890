//! A session that holds what maintenance needs, as messages and the ledger name it.

use std::fmt;

/// A session that holds what we waited for in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// Its process; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// The name of the prepared transaction.
    pub prepared: Option<String>,
    /// Its role, where it may be seen.
    pub role: Option<String>,
    /// Its `application_name`, where it may be seen.
    pub application: Option<String>,
    /// The lock it holds.
    pub mode: String,
    /// How long its transaction has been open, as text.
    pub transaction_age: Option<String>,
    /// When its statement, or its last one, was begun, as text.
    pub query_start: Option<String>,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.prepared) {
            (Some(pid), _) => write!(f, "process {pid} holds {}", self.mode)?,
            (None, Some(name)) => {
                write!(f, "prepared transaction \"{name}\" holds {}", self.mode)?;
            }
            (None, None) => write!(f, "a transaction without a process holds {}", self.mode)?,
        }
        if let Some(role) = &self.role {
            write!(f, ", role \"{role}\"")?;
        }
        if let Some(application) = self.application.as_ref().filter(|name| !name.is_empty()) {
            write!(f, ", application \"{application}\"")?;
        }
        if let Some(age) = &self.transaction_age {
            write!(f, ", in a transaction since {age}")?;
        }
        match &self.query_start {
            Some(start) => write!(f, ", statement of {start}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_said() {
        let mut blocker = Blocker {
            pid: Some(7),
            prepared: None,
            role: Some("app".into()),
            application: Some("import".into()),
            mode: "RowExclusiveLock".into(),
            transaction_age: Some("00:10:00".into()),
            query_start: Some("2026-11-24 14:00:00+00".into()),
        };
        assert_eq!(
            blocker.to_string(),
            "process 7 holds RowExclusiveLock, role \"app\", application \"import\", in a transaction \
             since 00:10:00, statement of 2026-11-24 14:00:00+00"
        );
        blocker = Blocker {
            pid: None,
            prepared: Some("import".into()),
            role: None,
            application: None,
            query_start: None,
            ..blocker
        };
        assert_eq!(
            blocker.to_string(),
            "prepared transaction \"import\" holds RowExclusiveLock, in a transaction since 00:10:00"
        );
    }
}
