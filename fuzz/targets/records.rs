//! The records of what lives, and what is kept of what ended: files that another version, or a torn disk, may have written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinfold::occurrence::Occurrence;
use pinfold::records::Record;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = serde_json::from_slice::<Record>(data) {
        let text = serde_json::to_vec(&record).expect("a record is JSON");
        assert_eq!(serde_json::from_slice::<Record>(&text).unwrap(), record);
    }
    if let Ok(occurrence) = serde_json::from_slice::<Occurrence>(data) {
        let text = serde_json::to_vec(&occurrence).expect("an occurrence is JSON");
        assert_eq!(serde_json::from_slice::<Occurrence>(&text).unwrap(), occurrence);
    }
});
