//! What a newer command asks of an older daemon, which may live on for long after an upgrade.
//!
//! A field that this version does not know may change what is asked for: whatever it says is refused by its name, and not
//! passed over. One that says nothing asks for nothing: every field that is added means with `null`, `false` or nothing in
//! it what its absence means, so that a newer launcher that does not use it is understood.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::de::value::Error;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde_json::Value;

use super::Fault;

/// What to do about a daemon that does not know what it is asked.
pub const OLDER: &str = "it is older than the command: restart it (systemctl restart pinfold; sessions live on)";

/// Refuses what has a field that says something and that `T` does not have. `within` is where it stands.
pub(super) fn refuse<'de, T: Deserialize<'de>>(within: &str, parameters: &Value) -> Result<(), Fault> {
    let known = fields::<T>();
    let Some(given) = parameters.as_object() else { return Ok(()) };
    match given.iter().find(|(name, value)| !known.contains(&name.as_str()) && says_something(value)) {
        None => Ok(()),
        Some((name, _)) => Err(Fault::InvalidParameter(format!(
            "{within}{name} is not known to this daemon, which is of version {}; {OLDER}",
            env!("CARGO_PKG_VERSION")
        ))),
    }
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) | Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// The names of a struct's fields, as it asks for them to be read.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut asked = &[][..];
    // It is given nothing, so nothing comes of it.
    let _ = T::deserialize(Asked(&mut asked));
    asked
}

/// A value that is none: it takes down for which fields it is asked.
struct Asked<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("there is no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
