//! What is wrong with a message, and where.

use std::fmt;

/// More problems than this in one message are not told apart; nobody reads them and the acknowledgement stays small.
pub const PROBLEMS_MAX: usize = 32;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path in the canonical JSON names, for example `ports[1].port`.
    pub field: String,
    /// One phrase.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

/// All problems of one message, at most [`PROBLEMS_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl Problems {
    /// The problems, in the order of the message's fields.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.0
    }

    /// The problems with every path below `prefix`.
    #[must_use]
    pub fn within(self, prefix: &str) -> Vec<Problem> {
        let deeper = |problem: Problem| match problem.field.as_str() {
            "" => Problem { field: prefix.to_owned(), ..problem },
            field => Problem { field: format!("{prefix}.{field}"), ..problem },
        };
        self.0.into_iter().map(deeper).collect()
    }

    /// One problem with the message as a whole.
    pub(super) fn one(field: &str, reason: impl Into<String>) -> Self {
        Self(vec![Problem { field: field.to_owned(), reason: reason.into() }])
    }

    pub(super) fn add(&mut self, path: &Path<'_>, reason: impl Into<String>) {
        if self.0.len() < PROBLEMS_MAX {
            self.0.push(Problem { field: path.to_string(), reason: reason.into() });
        }
    }

    /// Adds a problem and goes on with `instead`.
    pub(super) fn add_or<T>(&mut self, path: &Path<'_>, reason: impl Into<String>, instead: T) -> T {
        self.add(path, reason);
        instead
    }

    /// The value, or a problem.
    pub(super) fn keep<T>(&mut self, path: &Path<'_>, value: Result<T, impl fmt::Display>) -> Option<T> {
        value.map_err(|reason| self.add(path, reason.to_string())).ok()
    }

    /// The items with their paths; none, and a problem, if there are too many.
    pub(super) fn bounded<'a, 'p, T>(
        &mut self,
        path: &'p Path<'p>,
        items: &'a [T],
        most: usize,
    ) -> impl Iterator<Item = (Path<'p>, &'a T)> + use<'a, 'p, T> {
        let items = if items.len() <= most {
            items
        } else {
            self.add(path, format!("has {} items, more than {most}", items.len()));
            &[]
        };
        items.iter().enumerate().map(|(at, item)| (path.item(at), item))
    }

    /// The whole, if nothing was wrong.
    pub(super) fn finish<T>(self, whole: Option<T>) -> Result<T, Self> {
        match whole {
            Some(whole) if self.0.is_empty() => Ok(whole),
            // A part is missing only where a problem was added.
            Some(_) | None => Err(self),
        }
    }
}

/// Where a field is. Made on the stack; becomes text only when something is wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path<'a> {
    parent: Option<&'a Self>,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Root,
    Field(&'static str),
    Item(usize),
}

impl<'a> Path<'a> {
    pub(super) const fn root() -> Path<'static> {
        Path { parent: None, step: Step::Root }
    }

    pub(super) const fn field(&'a self, name: &'static str) -> Self {
        Self { parent: Some(self), step: Step::Field(name) }
    }

    pub(super) const fn item(&'a self, at: usize) -> Self {
        Self { parent: Some(self), step: Step::Item(at) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        let first = self.parent.is_none_or(|parent| matches!(parent.step, Step::Root));
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if first => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Item(at) => write!(f, "[{at}]"),
        }
    }
}
