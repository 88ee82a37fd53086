//! The interface as it is written down, against the values that go over the wire: every field of one is in the other.

use std::collections::BTreeSet;

use pinfold::label::Labels;
use pinfold::lifecycle::{ParkReason, ThawReason};
use pinfold::limits::{Bytes, LimitKey};
use pinfold::occurrence::{self, Occurrence, What};
use pinfold::outcome::{Cause, Exit, Level, Outcome, Stall, Stopper};
use pinfold::session::{Name, SessionId};
use pinfold::snapshot::{ActivityView, MemoryView, PressureView, ServerView, SessionView, StallView, StdinWatch};
use pinfold::wire::{
    Adopt, Adopted, Answer, By, Call, DESCRIPTION, Description, End, EndReply, Ended, EventsReply, Fault, Group,
    Launch, Launched, LimitChange, LimitKept, LimitPlace, LimitState, ListReply, Located, NotParked, Noted, ParkReply,
    Parked, Question, Relabel, Relabelled, Reload, ReloadReply, Rested, StatusReply, ThawReply, Watch, Whose,
};
use serde::Serialize;
use serde_json::{Value, json};

/// The names in the parentheses that follow `head` in the description.
fn written(head: &str) -> BTreeSet<String> {
    let start = DESCRIPTION.find(head).unwrap_or_else(|| panic!("{head} is not in the description")) + head.len();
    let (mut depth, mut names, mut word) = (1, BTreeSet::new(), String::new());
    for c in DESCRIPTION[start..].chars() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => break,
            ')' => depth -= 1,
            ':' if depth == 1 => {
                names.insert(std::mem::take(&mut word));
            }
            ',' | '\n' => word.clear(),
            c if c.is_alphanumeric() || c == '_' => word.push(c),
            _ => {}
        }
    }
    names
}

fn sent<T: Serialize>(value: &T) -> BTreeSet<String> {
    match serde_json::to_value(value).unwrap() {
        Value::Object(fields) => fields.keys().cloned().collect(),
        other => panic!("not an object: {other}"),
    }
}

fn parameters(bytes: &[u8]) -> Value {
    let message: Value = serde_json::from_slice(bytes.strip_suffix(b"\0").unwrap()).unwrap();
    message["parameters"].clone()
}

fn server() -> ServerView {
    ServerView {
        name: Name::parse("fs").unwrap(),
        leaf: "fs.1".into(),
        state: "running".into(),
        leader_pid: 1,
        owner_pid: 2,
        processes: 3,
        cgroup: "/sys/fs/cgroup/x".into(),
        argv: serde_json::from_value(json!(["node", "server.js"])).unwrap(),
        labels: Labels::default(),
        generation: 1,
        started_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        memory: MemoryView::default(),
        activity: ActivityView::default(),
        pressure: PressureView::default(),
        pids_refusals: 0,
        stdin: StdinWatch::Watched,
        confine: Default::default(),
        container: None,
        escaped: false,
        escaped_pids: Vec::new(),
        parked_at: None,
        reclaimed_bytes: None,
        warnings: Vec::new(),
    }
}

fn session() -> SessionView {
    SessionView {
        id: SessionId::parse("s").unwrap(),
        key: "s_0123456789ab".into(),
        host: None,
        uid: 0,
        owner_pid: None,
        generation: 1,
        state: "running".into(),
        backend: "cgroupfs".into(),
        cgroup: "/sys/fs/cgroup/x".into(),
        ttl: None,
        expires_at: None,
        processes: 3,
        memory: MemoryView::default(),
        activity: ActivityView::default(),
        pressure: PressureView::default(),
        servers: vec![server()],
    }
}

fn occurrence(what: What) -> Occurrence {
    let (at, server) = ("2026-01-01T00:00:00Z".parse().unwrap(), server().name);
    Occurrence {
        number: 1,
        at,
        uid: 0,
        realm: pinfold::realm::Realm::Host,
        session: None,
        key: None,
        host: None,
        server,
        leaf: None,
        what,
    }
}

/// Of each kind one, but for ends.
fn other_happenings() -> Vec<What> {
    vec![
        What::Launched { pid: 1, launch_seconds: 0.01, warnings: Vec::new() },
        What::MovedIn { pid: 1, warnings: Vec::new() },
        What::Adopted { pid: 1 },
        What::Refused { reason: "r".into(), uncontained: false },
        What::Storm { owner_pid: 1, owner: "node".into() },
        What::MemoryKill { level: Level::Server, kills: 1 },
        What::PidsLimit { level: Level::Server },
        What::NotExecuted { command: "nxp".into(), reason: "r".into() },
        What::Escaped { pids: vec![1] },
        What::Trimmed { before_bytes: Bytes(3), after_bytes: Bytes(2), swap_bytes: Bytes(1) },
        What::Parked { reason: ParkReason::Idle, before_bytes: Bytes(3), after_bytes: Bytes(2), swap_bytes: Bytes(1) },
        What::Thawed { reason: ThawReason::Input, parked_seconds: 1.5, thaw_seconds: None },
    ]
}

#[test]
fn every_kind_of_event_is_named_in_the_interface_and_has_a_message_id_of_its_own() {
    let ids: BTreeSet<&str> = other_happenings().iter().map(What::message_id).collect();
    assert_eq!(ids.len(), other_happenings().len());
    for what in other_happenings() {
        assert_eq!(
            sent(&occurrence(what.clone())),
            sent(&serde_json::from_value::<Occurrence>(json!(occurrence(what.clone()))).unwrap())
        );
        assert_eq!(json!(occurrence(what.clone()))["event"], what.word());
        assert!(DESCRIPTION.contains(what.word()), "{}", what.word());
    }
}

#[test]
fn every_field_of_a_view_is_in_the_interface_and_the_other_way_round() {
    assert_eq!(written("type Memory ("), sent(&MemoryView::default()));
    assert_eq!(written("type Activity ("), sent(&ActivityView::default()));
    assert_eq!(written("type Pressure ("), sent(&PressureView::default()));
    let group = Group {
        name: None,
        ends: 0,
        killed: 0,
        memory: 0,
        peak_bytes: None,
        memory_bytes: None,
        mean_lifetime_seconds: 0.0,
        max_lifetime_seconds: 0.0,
    };
    assert_eq!(written("type Group ("), sent(&group));
    assert_eq!(written("type Stalled ("), sent(&StallView::default()));
    assert_eq!(written("type Server ("), sent(&server()));
    let whose = Whose { session: session().id, server: server().name, leaf: "fs.1".into() };
    assert_eq!(written("type Whose ("), sent(&whose));
    assert_eq!(written("type Parked ("), sent(&Parked::new(whose.clone(), (Bytes(3), Bytes(2), Bytes(1)))));
    assert_eq!(written("type NotParked ("), sent(&NotParked::new(whose, "it is busy".into())));
    assert_eq!(written("type Session ("), sent(&session()));
    let outcome = Outcome {
        cause: Cause::Memory { level: Level::Session, stall: None },
        processes: Some(3),
        killed: true,
        memory_bytes: Some(Bytes(1)),
        peak_bytes: None,
        exit: None,
    };
    let ended = Ended { session: session().id, server: server().name, leaf: "fs.1".into(), outcome };
    let mut all = sent(&ended);
    let mut happened: BTreeSet<String> =
        other_happenings().into_iter().flat_map(|what| sent(&occurrence(what))).collect();
    let stall = Stall { span: "10s".parse().unwrap(), percent: 85 };
    assert_eq!(written("type Stall ("), sent(&stall));
    for cause in [
        Cause::Expired { ttl: "8h".parse().unwrap() },
        Cause::Idle { idle_after: "8h".parse().unwrap() },
        Cause::Memory { level: Level::Server, stall: Some(stall) },
        Cause::Stopped { by: Stopper::Oomd },
    ] {
        let outcome = Outcome { cause, ..outcome };
        all.extend(sent(&Ended { outcome, ..ended.clone() }));
        let ended = occurrence::Ended {
            outcome,
            started_at: server().started_at,
            lifetime_seconds: 1.5,
            end_seconds: None,
            parked_seconds: 0.0,
        };
        let ended = occurrence(What::Ended(ended));
        happened.extend(sent(&ended));
        let read: Occurrence = serde_json::from_str(&serde_json::to_string(&ended).unwrap()).unwrap();
        assert_eq!(read, ended);
    }
    let exits = [Exit::Status(1), Exit::Signal(9), Exit::NotExecuted(2)];
    assert_eq!(written("type Exit ("), exits.iter().flat_map(sent).collect());
    assert_eq!(written("type Ended ("), all);
    assert_eq!(written("type Event ("), happened);
    let at = LimitPlace { level: Level::Machine, session: None, server: None, leaf: None };
    let change = LimitChange { at: at.clone(), limit: LimitKey::MemoryMax, from: None, to: Some(1) };
    assert_eq!(written("type LimitChange ("), sent(&change));
    let kept = LimitKept { at, limit: LimitKey::PidsMax, stays: None, wanted: None, usage: None, why: String::new() };
    assert_eq!(written("type LimitKept ("), sent(&kept));
    let missing = LimitState::Missing { why: "w".into(), remedy: "r".into() };
    assert_eq!(written("type LimitState ("), sent(&missing));
    for state in [LimitState::Holds, LimitState::NothingToLimit, missing] {
        let word = serde_json::to_value(&state).unwrap()["state"].as_str().unwrap().to_owned();
        let words = DESCRIPTION.lines().find_map(|line| line.trim().strip_prefix("state: (")).unwrap();
        assert!(words.contains(&word), "{word} is not in {words}");
    }
}

#[test]
fn every_parameter_of_a_method_is_in_the_interface_and_the_other_way_round() {
    let launch: Launch = serde_json::from_value(json!({ "server": "fs", "argv": ["node"] })).unwrap();
    assert_eq!(written("method Launch("), sent(&launch));
    let adopt: Adopt = serde_json::from_value(json!({ "pid": 7 })).unwrap();
    assert_eq!(written("method Adopt("), sent(&adopt));
    assert_eq!(written("method End("), sent(&End::default()));
    assert_eq!(written("method Reload("), sent(&Reload::default()));
    assert_eq!(written("method Label("), sent(&Relabel::default()));
    assert_eq!(written("method Park("), sent(&Rested::default()));
    assert_eq!(written("method Thaw("), sent(&Rested::default()));
    assert_eq!(written("method Status("), sent(&parameters(&Call::Status(session().id).encode())));
    assert_eq!(written("method History("), sent(&Question::default()));
    assert_eq!(written("method Events("), sent(&parameters(&Call::Events(Watch::default()).encode())));
    assert_eq!(written("method Locate("), sent(&parameters(&Call::Locate(1).encode())));
    assert_eq!(written("method NotExecuted("), sent(&parameters(&Call::NotExecuted(2).encode())));
}

#[test]
fn every_reply_is_in_the_interface_and_the_other_way_round() {
    let launched = Launched {
        session: session().id,
        server: server().name,
        key: String::new(),
        leaf: String::new(),
        cgroup: String::new(),
        companions: Vec::new(),
        confine: Default::default(),
        container: None,
        container_parent: None,
        container_removed: false,
        container_monitored: false,
        warnings: Vec::new(),
    };
    let adopted = Adopted {
        pid: 7,
        session: session().id,
        server: server().name,
        key: String::new(),
        leaf: String::new(),
        cgroup: String::new(),
        processes: 1,
        warnings: Vec::new(),
    };
    let description = Description {
        version: String::new(),
        pid: 1,
        uid: 0,
        backend: String::new(),
        backend_why: String::new(),
        notes: Vec::new(),
        layout: String::new(),
        root: String::new(),
        config: None,
        limits: Default::default(),
        idle: Default::default(),
        launches: 0,
        refusals: 0,
        uncontained: 0,
        delayed: 0,
        storms: 0,
    };
    let replies = [
        ("pidfd: ?int\n) -> (", sent(&launched)),
        ("limits: Limits,\n  grace: ?string\n) -> (", sent(&adopted)),
        ("wait: bool\n) -> (", sent(&EndReply::default())),
        ("method Reload(force: bool) -> (", sent(&ReloadReply::default())),
        ("labels: [string]string\n) -> (", sent(&Relabelled::default())),
        ("method Park(session: ?string, server: ?string, all: bool) -> (", sent(&ParkReply::default())),
        ("method Thaw(session: ?string, server: ?string, all: bool) -> (", sent(&ThawReply::default())),
        ("method Status(session: string) -> (", sent(&StatusReply { sessions: Vec::new(), complete: true })),
        ("method List() -> (", sent(&ListReply::default())),
        ("limit: ?int\n) -> (", sent(&Answer::default())),
        ("method NotExecuted(errno: int) -> (", sent(&Noted {})),
        ("method Events(session: ?string) -> (", sent(&EventsReply::default())),
        ("method Locate(pid: int) -> (", sent(&Located { session: session(), leaf: String::new() })),
        ("method Describe() -> (", sent(&description)),
    ];
    for (head, fields) in replies {
        assert_eq!(written(head), fields, "{head}");
    }
}

#[test]
fn every_fault_of_ours_is_in_the_interface() {
    let faults = [
        Fault::Refused { reason: "r".into(), remedy: "s".into(), uncontained: true },
        Fault::NotPermitted("r".into()),
        Fault::NotReloaded("r".into()),
        Fault::NoHistory("r".into()),
        Fault::NotContained(1),
    ];
    for fault in faults {
        let bytes = fault.encode();
        let message: Value = serde_json::from_slice(bytes.strip_suffix(b"\0").unwrap()).unwrap();
        let name = message["error"].as_str().unwrap().rsplit('.').next().unwrap();
        assert_eq!(written(&format!("error {name}(")), sent(&message["parameters"]), "{name}");
        assert_eq!(pinfold::wire::decode_reply::<Value>(bytes.strip_suffix(b"\0").unwrap()).unwrap(), Err(fault));
    }
}

#[test]
fn a_call_arrives_as_it_was_sent() {
    let launch: Launch = serde_json::from_value(json!({
        "server": "fs", "session": "a\n🦊", "argv": ["npx", "--token", "x"], "limits": { "memory_max": "512M" }, "stdin": 0,
    }))
    .unwrap();
    let adopt: Adopt =
        serde_json::from_value(json!({ "pid": 7, "pidfd": 0, "session": "s", "limits": { "pids_max": 9 } })).unwrap();
    let calls = [
        Call::Launch(Box::new(launch)),
        Call::Adopt(Box::new(adopt)),
        Call::End(End { all: true, now: true, ..End::default() }),
        Call::Reload(Reload { force: true }),
        Call::End(End {
            labels: Labels::collect(["run=42".parse().unwrap()]).unwrap(),
            before: Some("@1.000000001".parse().unwrap()),
            generation: Some(7),
            ..End::default()
        }),
        Call::Label(Relabel {
            pid: Some(7),
            labels: Labels::collect(["run=🦊".parse().unwrap()]).unwrap(),
            ..Relabel::default()
        }),
        Call::List,
        Call::Status(session().id),
        Call::Locate(7),
        Call::NotExecuted(2),
        Call::Events(Watch { session: Some(session().id), follow: true }),
        Call::Events(Watch::default()),
        Call::History(Question { by: Some(By::Cause), limit: Some(3), ..Question::default() }),
        Call::Describe,
        Call::GetInfo,
        Call::GetInterfaceDescription("io.pinfold".into()),
    ];
    for call in calls {
        let bytes = call.encode();
        assert_eq!(Call::decode(bytes.strip_suffix(b"\0").unwrap()).unwrap(), Ok(call));
    }
}

/// What a daemon of this version makes of a call that a later one may understand.
fn of_a_later_version(method: &str, parameters: &Value) -> Result<Call, Fault> {
    let message = json!({ "method": format!("io.pinfold.{method}"), "parameters": parameters });
    Call::decode(message.to_string().as_bytes()).unwrap()
}

#[test]
fn an_order_with_something_in_it_that_this_version_does_not_know_is_refused_by_name() {
    for (method, parameters, name) in [
        ("Launch", json!({ "server": "fs", "argv": ["node"], "nice": 5 }), "nice"),
        ("Launch", json!({ "server": "fs", "argv": ["node"], "limits": { "disk_max": "1G" } }), "limits.disk_max"),
        // Also where what it does know is not as it knows it.
        ("Launch", json!({ "server": ["fs"], "argv": ["node"], "nice": { "at": 5 } }), "nice"),
        ("Adopt", json!({ "pid": 7, "children": "some" }), "children"),
        ("Adopt", json!({ "pid": 7, "limits": { "disk_max": "1G" } }), "limits.disk_max"),
        ("End", json!({ "all": true, "except": ["fs"] }), "except"),
        ("Label", json!({ "session": "s", "labels": {}, "once": true }), "once"),
        ("Reload", json!({ "force": true, "only": "limits" }), "only"),
    ] {
        let Err(Fault::InvalidParameter(why)) = of_a_later_version(method, &parameters) else {
            panic!("{method} {parameters} is obeyed");
        };
        assert!(why.starts_with(&format!("{name} is not known")), "{why}");
        assert!(why.contains("older than the command") && why.contains("sessions live on"), "{why}");
        assert!(why.contains(env!("CARGO_PKG_VERSION")) && why.lines().count() == 1, "{why}");
    }
}

#[test]
fn what_a_later_version_does_not_ask_for_is_no_reason_to_refuse_it() {
    let launch = json!({ "server": "fs", "argv": ["node"] });
    let nothing = json!({ "nice": null, "quiet": false, "devices": [], "mounts": {}, "profile": "" });
    for (method, parameters) in [
        ("Launch", launch),
        ("Adopt", json!({ "pid": 7 })),
        ("End", json!({ "all": true })),
        ("Label", json!({})),
        ("Reload", json!({})),
    ] {
        let known = of_a_later_version(method, &parameters);
        let mut more = parameters.clone();
        more.as_object_mut().unwrap().extend(nothing.as_object().unwrap().clone());
        assert_eq!(of_a_later_version(method, &more), known, "{method}");
        assert!(known.is_ok(), "{known:?}");
    }
}

/// As if all of these fields had come to be in this version, and others in the next one.
fn of_another_version<T: Serialize + serde::de::DeserializeOwned>(reply: &T, later: &[&str]) -> T {
    let mut reply = serde_json::to_value(reply).unwrap();
    let fields = reply.as_object_mut().unwrap();
    for field in later {
        assert!(fields.remove(*field).is_some(), "{field}");
    }
    fields.insert("of_the_next_version".into(), json!({ "x": [1] }));
    let bytes = json!({ "parameters": reply }).to_string();
    pinfold::wire::decode_reply::<T>(bytes.as_bytes()).unwrap().unwrap()
}

#[test]
fn a_reply_of_another_version_is_understood() {
    let description = Description {
        version: "0.0.1".into(),
        limits: [("memory".to_owned(), LimitState::Holds)].into(),
        ..Description::default()
    };
    let later = ["notes", "layout", "config", "uncontained", "delayed", "storms"];
    assert_eq!(of_another_version(&description, &later), description);
    let later = ["labels", "generation", "stdin", "escaped", "escaped_pids", "warnings", "pids_refusals"];
    let older = ServerView { generation: 0, stdin: StdinWatch::Unwatched, ..server() };
    assert_eq!(of_another_version(&older, &later), older);
    let older = SessionView { generation: 0, ..session() };
    assert_eq!(of_another_version(&older, &["generation", "owner_pid", "ttl", "expires_at", "host"]), older);
    let list = ListReply { sessions: vec![session()] };
    assert_eq!(of_another_version(&list, &[]), list);
    let status = StatusReply { sessions: vec![session()], complete: false };
    assert_eq!(of_another_version(&status, &["complete"]), status);
    assert_eq!(of_another_version(&EndReply::default(), &["ended", "pending"]), EndReply::default());
    assert_eq!(of_another_version(&Relabelled::default(), &["leaves"]), Relabelled::default());
    assert_eq!(of_another_version(&ReloadReply::default(), &["kept", "warnings"]), ReloadReply::default());
    let located = Located { session: session(), leaf: "fs.1".into() };
    assert_eq!(of_another_version(&located, &[]), located);
}

#[test]
fn what_is_no_call_of_ours_is_answered_and_not_obeyed() {
    let decode = |text: &str| Call::decode(text.as_bytes());
    assert_eq!(
        decode(r#"{"method":"io.pinfold.Reboot"}"#).unwrap(),
        Err(Fault::MethodNotFound("io.pinfold.Reboot".into()))
    );
    for wrong in [
        r#"{"method":"io.pinfold.Locate","parameters":{"pid":"one"}}"#,
        r#"{"method":"io.pinfold.Launch","parameters":{"server":"../x","argv":[]}}"#,
        r#"{"method":"io.pinfold.End","parameters":{"everything":true}}"#,
        r#"{"method":"io.pinfold.End","parameters":{"labels":{"run":"a\nb"}}}"#,
        r#"{"method":"io.pinfold.End","parameters":{"before":"yesterday"}}"#,
        r#"{"method":"io.pinfold.Label","parameters":{"labels":{"a b":"c"}}}"#,
    ] {
        assert!(matches!(decode(wrong).unwrap(), Err(Fault::InvalidParameter(_))), "{wrong}");
    }
    for garbage in ["", "\x01\x02", "[]", r#"{"parameters":{}}"#] {
        assert!(decode(garbage).is_err(), "{garbage:?}");
    }
}
