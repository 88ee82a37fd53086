//! The files of hosts: nothing makes the readers panic, and the way back from an edit leads to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinfold::hostfile::edit::{Change, Front, starts, unwrap, wrap};
use pinfold::hostfile::{Syntax, diff, entries, masked, plugin};

const FRONT: Front<'static> = Front { program: "/usr/bin/pinfold", host: None };

/// These changes of that text, which must fit it.
fn applied(text: &str, changes: &[Change]) -> String {
    let (mut after, mut at) = (String::new(), 0);
    for change in changes {
        after.push_str(&text[at..change.span.start]);
        after.push_str(&change.text);
        at = change.span.end;
    }
    after + &text[at..]
}

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let syntax = [Syntax::Json, Syntax::Toml, Syntax::Yaml][usize::from(*first) % 3];
    let _ = entries(syntax, bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = (masked(syntax, text), starts(syntax, bytes));
    let out = unwrap(syntax, bytes, &[]);
    if let Ok(edit) = wrap(syntax, bytes, FRONT, &[]) {
        assert_eq!(edit.before, text);
        assert_eq!(applied(text, &edit.changes), edit.after);
        let _ = diff::lines(text, &edit.changes);
        let after = edit.after.as_bytes();
        let again = wrap(syntax, after, FRONT, &[]).expect("what pinfold wrote it reads");
        assert!(again.changes.is_empty(), "a second time changes nothing: {:?}", again.changes);
        // Where some were wrapped before, the way back leads further.
        if out.as_ref().is_ok_and(|out| out.changes.is_empty()) {
            assert_eq!(unwrap(syntax, after, &[]).expect("the same").after, text);
        }
    }
    if syntax == Syntax::Json {
        let _ = plugin::written_by(bytes);
        if let Ok(changes) = plugin::add(bytes, "/srv/plug-in", true) {
            let mut changes = changes;
            changes.sort_by_key(|change| (change.span.start, change.span.end));
            let after = applied(text, &changes);
            assert!(entries(syntax, after.as_bytes()).is_ok(), "{after}");
        }
        let _ = plugin::remove(bytes);
    }
});
