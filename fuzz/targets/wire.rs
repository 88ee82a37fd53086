//! What a client sends and what a daemon answers, in whatever pieces it comes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinfold::wire::{self, Call, Inbox};

fuzz_target!(|data: &[u8]| {
    let mut inbox = Inbox::default();
    // The first byte says in which pieces.
    let (size, data) = data.split_first().map_or((1, data), |(size, rest)| (usize::from(*size).max(1), rest));
    let mut messages = Vec::new();
    for piece in data.chunks(size) {
        inbox.push(piece);
        while let Some(message) = inbox.take() {
            messages.push(message);
        }
        assert!(inbox.whole().is_none());
    }
    let mut expected: Vec<&[u8]> = data.split(|byte| *byte == 0).collect();
    assert_eq!(inbox.pending(), expected.pop().unwrap_or_default().len());
    assert_eq!(messages, expected, "pieces change no message");
    for message in messages {
        if let Ok(Ok(call)) = Call::decode(&message) {
            // What was understood is understood again, and means the same.
            let again = call.encode();
            let (_, body) = again.split_last().expect("it has a NUL at its end");
            assert_eq!(Call::decode(body).unwrap().unwrap(), call);
        }
        let _ = wire::decode_reply::<wire::Launched>(&message);
        let _ = wire::decode_reply::<wire::StatusReply>(&message);
        let _ = wire::decode_reply::<wire::EventsReply>(&message);
        let _ = wire::decode_reply::<wire::Answer>(&message);
        let _ = wire::decode_reply::<wire::Description>(&message);
        let _ = wire::decode_reply::<wire::ReloadReply>(&message);
        let _ = wire::decode_reply::<wire::EndReply>(&message);
    }
});
