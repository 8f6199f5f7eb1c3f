//! Reads JSON objects field by field, so that one answer names everything that is wrong, each with its path.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Problems;

/// What was found while reading.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// All that is wrong.
    pub(super) problems: Problems,
    /// Whether something was of the wrong type, so that its meaning is unknown.
    pub(super) misshapen: bool,
}

impl Findings {
    /// A rule is broken.
    pub(super) fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.problems.add(field, reason);
    }

    fn misshapen(&mut self, field: String, wanted: &str, found: &Value) {
        self.misshapen = true;
        let found = match found {
            Value::Null => "null".to_owned(),
            Value::Bool(_) | Value::Number(_) => format!("{found}"),
            Value::String(_) => "a text".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
        };
        self.problems.add(field, format!("must be {wanted}, but is {found}"));
    }
}

/// The fields of one object that were not read yet. A field that is null counts as left out.
pub(super) struct Fields<'a> {
    path: String,
    left: BTreeMap<&'a str, &'a Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(path: String, value: &'a Value, findings: &mut Findings) -> Self {
        let Value::Object(object) = value else {
            findings.misshapen(path.clone(), "an object", value);
            return Self { path, left: BTreeMap::new() };
        };
        let left = object.iter().filter(|(_, value)| !value.is_null());
        Self { path, left: left.map(|(field, value)| (field.as_str(), value)).collect() }
    }

    /// Where a field is.
    pub(super) fn at(&self, field: &str) -> String {
        format!("{}.{field}", self.path)
    }

    pub(super) fn take(&mut self, field: &str) -> Option<&'a Value> {
        self.left.remove(field)
    }

    pub(super) fn text(&mut self, field: &str, findings: &mut Findings) -> Option<&'a str> {
        let value = self.take(field)?;
        let text = value.as_str();
        if text.is_none() {
            findings.misshapen(self.at(field), "a text", value);
        }
        text
    }

    pub(super) fn list(&mut self, field: &str, findings: &mut Findings) -> Option<&'a [Value]> {
        let value = self.take(field)?;
        let list = value.as_array().map(Vec::as_slice);
        if list.is_none() {
            findings.misshapen(self.at(field), "a list", value);
        }
        list
    }

    pub(super) fn texts(&mut self, field: &str, findings: &mut Findings) -> BTreeMap<String, String> {
        let Some(value) = self.take(field) else { return BTreeMap::new() };
        let mut fields = Self::of(self.at(field), value, findings);
        let names: Vec<&str> = fields.left.keys().copied().collect();
        let texts =
            names.into_iter().filter_map(|name| Some((name.to_owned(), fields.text(name, findings)?.to_owned())));
        texts.collect()
    }

    /// What nobody asked for is unknown, unless it is ignored.
    pub(super) fn end(self, ignored: &[&str], whose: &str, findings: &mut Findings) {
        for field in self.left.keys().filter(|field| !ignored.contains(field)) {
            findings.add(self.at(field), format!("is no field of {whose}; remove it"));
        }
    }

    /// A field of the wrong type whose value the caller looked at.
    pub(super) fn wrong(&self, field: &str, wanted: &str, found: &Value, findings: &mut Findings) {
        findings.misshapen(self.at(field), wanted, found);
    }
}
