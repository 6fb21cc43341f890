//! Names, and texts where a statement takes no parameter, on their way into SQL text: each type quotes itself, and there is no other way.

use std::fmt;

use pgrx::spi::{quote_identifier, quote_literal, quote_qualified_identifier};

/// A name without a schema.
#[derive(Clone, Copy, Debug)]
pub struct Ident<'a>(pub &'a str);

impl fmt::Display for Ident<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote_identifier(self.0))
    }
}

/// A name with its schema.
#[derive(Clone, Copy, Debug)]
pub struct Qualified<'a> {
    /// The schema.
    pub schema: &'a str,
    /// The name in it.
    pub name: &'a str,
}

impl Qualified<'_> {
    /// For messages, which put names in double quotes: without quotes of its own.
    #[must_use]
    pub fn plain(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

impl fmt::Display for Qualified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote_qualified_identifier(self.schema, self.name))
    }
}

/// Names separated by commas.
#[derive(Clone, Copy, Debug)]
pub struct List<'a>(pub &'a [&'a str]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.0.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, Ident(name))?;
        }
        Ok(())
    }
}

/// A text where a statement takes no parameter, as COPY takes none.
#[derive(Clone, Copy, Debug)]
pub struct Literal<'a>(pub &'a str);

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote_literal(self.0))
    }
}
