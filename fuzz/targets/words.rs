//! Names, keys, labels, spans of time and sizes: what parses is safe where it goes, and parses again as it is shown.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use pinfold::label::Label;
use pinfold::limits::{CpuMax, MemorySize, PidsMax, Weight};
use pinfold::naming::{LeafName, SessionKey};
use pinfold::session::{Name, SessionId};
use pinfold::timespan::TimeSpan;
use pinfold::timestamp::Timestamp;

/// Whether it can stand as one component of a path.
fn is_one_component(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\0']) && text.len() <= 255
}

fn reads_itself<T: FromStr + Display + PartialEq + Debug>(text: &str)
where
    T::Err: Debug,
{
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().unwrap(), value, "{text:?}");
    }
}

fuzz_target!(|text: &str| {
    if let Ok(id) = SessionId::parse(text) {
        assert_eq!(SessionId::parse(id.as_str()).unwrap(), id);
        let key = SessionKey::new(1000, &id);
        assert!(is_one_component(key.as_str()), "{key:?}");
        assert_eq!(SessionKey::parse(key.as_str()).unwrap(), key);
        assert_eq!(SessionKey::of_slice(&key.slice()).as_ref(), Some(&key));
        assert_eq!(SessionKey::of_scope(&key.scope(7)), Some((key.clone(), 7)));
        assert!(is_one_component(&key.slice()) && is_one_component(&key.scope(u64::MAX)));
    }
    for name in [Name::parse(text).ok(), Name::from_lossy(text)].into_iter().flatten() {
        assert_eq!(Name::parse(name.as_str()).unwrap(), name);
        let leaf = LeafName::new(&name, u64::MAX);
        assert!(is_one_component(leaf.as_str()), "{leaf:?}");
        assert_eq!(LeafName::parse(leaf.as_str()).unwrap(), leaf);
    }
    if let Ok(leaf) = LeafName::parse(text) {
        assert!(is_one_component(leaf.as_str()), "{leaf:?}");
        let _ = leaf.launch();
    }
    if let Ok(key) = SessionKey::parse(text) {
        assert!(is_one_component(key.as_str()), "{key:?}");
    }
    let _ = (SessionKey::of_slice(text), SessionKey::of_scope(text));
    let _ = text.parse::<Label>();
    reads_itself::<TimeSpan>(text);
    reads_itself::<Timestamp>(text);
    let _ = (text.parse::<MemorySize>(), text.parse::<PidsMax>(), text.parse::<CpuMax>(), text.parse::<Weight>());
});
