//! Words: labels, which a host ties to servers so that what belongs to one run of many can be found and ended together.
//!
//! A label is `KEY=VALUE`. pinfold gives no key a meaning, and no label ends anything by itself.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::session::{Name, NameError};

/// Why a text, or several, are no labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// There is no `=` in it.
    #[error("{0:?} is not a label; write KEY=VALUE, as in run=42")]
    NoValue(String),
    /// Its key is no name.
    #[error("the key of a label: {0}")]
    Key(NameError),
    /// Its value is not one.
    #[error("the value of label {key} {why}")]
    Value {
        /// The label's key, as far as it is known.
        key: String,
        /// What is wrong with the value.
        why: &'static str,
    },
    /// One key has two values.
    #[error("label {0} is given twice; a server has one value for each key")]
    Twice(Name),
    /// More than a server may have.
    #[error("a server has at most {max} labels, and these would be {0}; leave some out", max = Labels::MAX)]
    TooMany(usize),
}

/// The value of a label: 1 to 200 bytes of UTF-8 without control characters, so that none can forge a line of output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelValue(String);

impl LabelValue {
    /// The longest value, in bytes.
    pub const MAX_BYTES: usize = 200;

    fn check(text: &str) -> Result<(), &'static str> {
        match text {
            // What a script's unset variable leaves would stand for all runs alike.
            "" => Err("is empty; give 1 to 200 bytes"),
            long if long.len() > Self::MAX_BYTES => Err("is longer than 200 bytes; shorten it"),
            control if control.chars().any(char::is_control) => {
                Err("contains a control character; write it without line breaks and the like")
            }
            _ => Ok(()),
        }
    }

    /// The value as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LabelValue {
    type Error = LabelError;
    fn try_from(text: String) -> Result<Self, LabelError> {
        Self::check(&text).map_err(|why| LabelError::Value { key: "?".to_owned(), why })?;
        Ok(Self(text))
    }
}

impl From<LabelValue> for String {
    fn from(value: LabelValue) -> String {
        value.0
    }
}

/// One label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// What it speaks of: a [`Name`], so at most 64 bytes.
    pub key: Name,
    /// What it says.
    pub value: LabelValue,
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(given: &str) -> Result<Self, LabelError> {
        let no_value = || LabelError::NoValue(given.chars().take(80).collect());
        let (key, value) = given.split_once('=').ok_or_else(no_value)?;
        let key = Name::parse(key).map_err(LabelError::Key)?;
        LabelValue::check(value).map_err(|why| LabelError::Value { key: key.to_string(), why })?;
        Ok(Self { key, value: LabelValue(value.to_owned()) })
    }
}

/// The labels of one server: at most [`Labels::MAX`], each key once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<Name, LabelValue>", into = "BTreeMap<Name, LabelValue>")]
pub struct Labels(BTreeMap<Name, LabelValue>);

impl Labels {
    /// The most labels of a server.
    pub const MAX: usize = 16;

    /// Takes labels together, and refuses what no server can have.
    pub fn collect(labels: impl IntoIterator<Item = Label>) -> Result<Self, LabelError> {
        let mut all = BTreeMap::new();
        for Label { key, value } in labels {
            match all.entry(key) {
                Entry::Vacant(free) => drop(free.insert(value)),
                Entry::Occupied(taken) => return Err(LabelError::Twice(taken.key().clone())),
            }
        }
        Self::try_from(all)
    }

    /// These labels with `newer` on top, whose values go before.
    pub fn with(&self, newer: &Self) -> Result<Self, LabelError> {
        let mut all = self.0.clone();
        all.extend(newer.0.clone());
        Self::try_from(all)
    }

    /// Whether each of `wanted` is among these, with the same value.
    pub fn include(&self, wanted: &Self) -> bool {
        wanted.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<BTreeMap<Name, LabelValue>> for Labels {
    type Error = LabelError;
    fn try_from(all: BTreeMap<Name, LabelValue>) -> Result<Self, LabelError> {
        if all.len() > Self::MAX { Err(LabelError::TooMany(all.len())) } else { Ok(Self(all)) }
    }
}

impl From<Labels> for BTreeMap<Name, LabelValue> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

/// The labels as they are given, one space between them.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{key}={}", value.as_str())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(texts: &[&str]) -> Result<Labels, LabelError> {
        Labels::collect(texts.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn a_label_is_a_name_and_a_value_which_may_hold_all_but_control_characters() {
        for (text, key, value) in
            [("run=42", "run", "42"), ("a=b=c", "a", "b=c"), ("cron.job=jeden Tag 🦊", "cron.job", "jeden Tag 🦊")]
        {
            let label: Label = text.parse().unwrap();
            assert_eq!((label.key.as_str(), label.value.as_str()), (key, value));
        }
        let long = format!("k={}", "x".repeat(201));
        for wrong in ["", "run", "=42", "run=", "a b=c", "k=line\nbreak", "k=\u{1b}[2J", "k=nul\0", &long, ".k=v"] {
            let error = wrong.parse::<Label>().expect_err(wrong);
            assert!(!crate::chain::chain(&error).contains('\n'), "{error}");
        }
        assert!(format!("k={}", "x".repeat(200)).parse::<Label>().is_ok());
    }

    #[test]
    fn a_server_has_each_key_once_and_at_most_sixteen() {
        assert!(matches!(labels(&["a=1", "a=1"]), Err(LabelError::Twice(_))));
        let texts: Vec<String> = (0..17).map(|number| format!("k{number}=v")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let full = labels(&texts[..16]).unwrap();
        assert_eq!(labels(&texts), Err(LabelError::TooMany(17)));
        assert_eq!(full.with(&labels(&["k0=w"]).unwrap()).unwrap().to_string().matches("k0=w").count(), 1);
        assert_eq!(full.with(&labels(&["new=w"]).unwrap()), Err(LabelError::TooMany(17)));
        assert!(serde_json::from_value::<Labels>(serde_json::json!({ "a": "line\nbreak" })).is_err());
        assert!(serde_json::from_value::<Labels>(serde_json::json!({ "a b": "c" })).is_err());
    }

    #[test]
    fn all_that_are_wanted_must_be_there_with_the_same_value() {
        let of = |texts: &[&str]| labels(texts).unwrap();
        let server = of(&["run=42", "kind=cron"]);
        for (wanted, includes) in [
            (vec!["run=42"], true),
            (vec!["run=42", "kind=cron"], true),
            (vec![], true),
            (vec!["run=4"], false),
            (vec!["run=42", "host=x"], false),
        ] {
            assert_eq!(server.include(&of(&wanted)), includes, "{wanted:?}");
        }
    }

    proptest! {
        #[test]
        fn labels_read_back_from_json_as_they_were(values in proptest::collection::vec("\\PC{1,50}", 0..16)) {
            let given = values.iter().enumerate().map(|(number, value)| Label {
                key: Name::parse(&format!("k{number}")).unwrap(),
                value: LabelValue(value.clone()),
            });
            let labels = Labels::collect(given).unwrap();
            let text = serde_json::to_string(&labels).unwrap();
            prop_assert_eq!(serde_json::from_str::<Labels>(&text).unwrap(), labels);
        }

        #[test]
        fn parsing_any_text_never_panics(text in ".{0,300}") {
            let _ = text.parse::<Label>();
        }
    }
}
