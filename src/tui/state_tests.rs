//! What keys and readings make of the screen.

use super::*;
use crate::session::SessionId;
use crate::tui::fixture::{Server, press, reading_of, session, state, typed};

const NOW: u64 = 1_769_860_860;

/// Three sessions: by memory `big` is first, by name `a`, by age `old`.
fn sessions() -> Vec<SessionView> {
    let servers = |rss, age| [Server { age, ..Server::new("fs", rss) }, Server { age: 5, ..Server::new("web", 1) }];
    vec![
        session("a", 1, Some("zed"), &servers(20, 60), NOW),
        session("big", 1, None, &servers(900, 50), NOW),
        session("older", 1, None, &servers(100, 5000), NOW),
    ]
}

fn small() -> State {
    let mut state = State::new(Duration::from_secs(2));
    let _ = state.step(reading_of(0, sessions()));
    state
}

/// The rows as text: sessions, and after a dot servers.
fn rows(state: &State) -> Vec<String> {
    let name =
        |row: &Row<'_>| row.server.map_or_else(|| row.session.id.to_string(), |server| format!(".{}", server.name));
    state.rows().iter().map(name).collect()
}

fn selected(state: &State) -> String {
    let at = state.position_in(&state.rows()).expect("something is selected");
    rows(state)[at].clone()
}

#[test]
fn s_goes_through_the_orders_and_back() {
    let mut state = small();
    let sessions = |state: &State| rows(state).into_iter().filter(|row| !row.starts_with('.')).collect::<Vec<_>>();
    assert_eq!(sessions(&state), ["big", "older", "a"]);
    // No interval has gone by: nothing is known of CPU time, and names decide.
    for expected in [["a", "big", "older"], ["older", "a", "big"], ["a", "big", "older"], ["big", "older", "a"]] {
        let _ = typed(&mut state, "s");
        assert_eq!(sessions(&state), expected, "{:?}", state.sort());
    }
}

#[test]
fn by_cpu_the_busiest_of_the_last_interval_is_first() {
    let mut state = State::new(Duration::from_secs(2));
    let busy = |a, b| {
        let server = |seconds| [Server { seconds: (seconds, 0.0), ..Server::new("fs", 10) }];
        vec![session("a", 1, None, &server(a), NOW), session("bb", 1, None, &server(b), NOW)]
    };
    let _ = state.step(reading_of(0, busy(1000.0, 1.0)));
    let _ = state.step(reading_of(2, busy(1000.1, 2.0)));
    let _ = typed(&mut state, "s");
    assert_eq!(rows(&state), ["bb", ".fs", "a", ".fs"]);
}

#[test]
fn the_filter_keeps_what_has_it_and_escape_shows_all_again() {
    let mut state = small();
    let _ = typed(&mut state, "/WE");
    assert_eq!(rows(&state), ["big", ".web", "older", ".web", "a", ".web"]);
    let _ = press(&mut state, &[Key::Backspace, Key::Backspace, Key::Char('z'), Key::Char('e'), Key::Enter]);
    assert_eq!(rows(&state), ["a", ".fs", ".web"], "its host has it");
    // What is typed now is commands again.
    assert_eq!(typed(&mut state, "q"), Some(Action::Quit));
    let _ = press(&mut state, &[Key::Escape]);
    assert_eq!(rows(&state).len(), 9);
}

#[test]
fn what_is_typed_into_the_filter_is_no_command_and_is_bounded() {
    let mut state = small();
    assert_eq!(typed(&mut state, "/q"), None);
    for _ in 0..1000 {
        let _ = typed(&mut state, "e");
    }
    assert_eq!(state.filter().chars().count(), FILTER_MAX);
    assert_eq!(press(&mut state, &[Key::Interrupt]), Some(Action::Quit));
}

#[test]
fn folding_keeps_the_session_selected_and_unfolding_shows_its_servers_again() {
    let mut state = small();
    let _ = typed(&mut state, "jjj");
    assert_eq!(selected(&state), "older");
    let _ = press(&mut state, &[Key::Down, Key::Enter]);
    assert_eq!((selected(&state).as_str(), rows(&state).len()), ("older", 7));
    let _ = state.step(reading_of(2, sessions()));
    assert_eq!((selected(&state).as_str(), rows(&state).len()), ("older", 7), "a reading does not unfold it");
    let _ = typed(&mut state, " ");
    assert_eq!((selected(&state).as_str(), rows(&state).len()), ("older", 9));
}

#[test]
fn the_selection_follows_what_it_is_and_not_where_it_stands() {
    let mut state = small();
    assert_eq!(selected(&state), "big");
    let _ = typed(&mut state, "ss");
    assert_eq!((selected(&state).as_str(), rows(&state)[0].as_str()), ("big", "older"));
}

#[test]
fn where_what_is_selected_vanishes_what_stands_in_its_place_is_selected() {
    let mut state = small();
    let _ = press(&mut state, &[Key::Down, Key::Down, Key::Down]);
    assert_eq!(selected(&state), "older");
    let without = sessions().into_iter().filter(|session| session.id.as_str() != "older").collect();
    let _ = state.step(reading_of(2, without));
    assert_eq!(selected(&state), "a");
    let _ = state.step(reading_of(4, Vec::new()));
    assert_eq!(press(&mut state, &[Key::Down, Key::Enter, Key::Char('e')]), None);
    assert_eq!((state.selected(), state.mode()), (None, &Mode::Normal));
    let _ = state.step(reading_of(6, sessions()));
    assert_eq!(selected(&state), "big");
}

#[test]
fn nothing_is_kept_of_what_is_gone() {
    let mut state = small();
    let _ = typed(&mut state, " ");
    assert_eq!((state.tracks.len(), state.folded.len()), (9, 1));
    let _ = state.step(reading_of(2, Vec::new()));
    assert_eq!((state.tracks.len(), state.folded.len()), (0, 0));
}

#[test]
fn only_a_plain_yes_ends_what_is_selected() {
    for key in [Key::Char('n'), Key::Enter, Key::Escape, Key::Char('e'), Key::Char(' '), Key::Down] {
        let mut state = small();
        assert_eq!(press(&mut state, &[Key::Char('e'), key]), None);
        assert_eq!((state.mode(), selected(&state).as_str()), (&Mode::Normal, "big"), "{key:?}");
        assert_eq!(typed(&mut state, "y"), None, "the question is over");
    }
    let mut state = small();
    assert_eq!(typed(&mut state, "y"), None, "nothing was asked");
    let end = End { session: Some(SessionId::parse("big").unwrap()), generation: Some(1), ..End::default() };
    assert_eq!(typed(&mut state, "ey"), Some(Action::End(vec![end])));
}

#[test]
fn one_server_is_ended_by_its_leaf() {
    let mut state = small();
    let _ = typed(&mut state, "j");
    assert_eq!(selected(&state), ".fs");
    let Some(Action::End(ends)) = typed(&mut state, "ey") else { panic!("no end") };
    let [end] = ends.as_slice() else { panic!("{ends:?}") };
    assert!(end.server.as_ref().is_some_and(|leaf| leaf.starts_with("fs.")) && !end.now && !end.all, "{end:?}");
}

#[test]
fn of_two_users_with_one_session_id_only_the_selected_ones_servers_are_ended() {
    let mut state = State::new(Duration::from_secs(2));
    let of = |uid, rss| session("same", uid, None, &[Server::new("fs", rss), Server::new("web", 1)], NOW);
    let _ = state.step(reading_of(0, vec![of(1, 5), of(2, 50)]));
    let Some(Action::End(ends)) = typed(&mut state, "ey") else { panic!("no end") };
    let leaves: Vec<&str> = ends.iter().filter_map(|end| end.server.as_deref()).collect();
    assert_eq!(leaves, ["fs.2-40", "web.2-41"]);
}

#[test]
fn a_question_about_what_is_gone_is_withdrawn() {
    let mut state = small();
    let _ = typed(&mut state, "e");
    let _ = state.step(reading_of(2, sessions().split_off(2)));
    assert_eq!(state.note(), Some("session big is gone already"));
    assert_eq!(typed(&mut state, "y"), None);
}

#[test]
fn what_was_said_goes_with_the_next_key_or_after_a_while() {
    let mut state = small();
    let told = || Event::Told("not ended".to_owned());
    let _ = state.step(told());
    let _ = state.step(reading_of(2, sessions()));
    assert_eq!(state.note(), Some("not ended"));
    let _ = state.step(reading_of(11, sessions()));
    assert_eq!(state.note(), None);
    let _ = state.step(told());
    let _ = typed(&mut state, "j");
    assert_eq!(state.note(), None);
}

#[test]
fn plus_and_minus_change_the_interval_as_far_as_it_goes() {
    let mut state = small();
    assert_eq!(typed(&mut state, "+"), Some(Action::Look(Duration::from_secs(5))));
    assert_eq!(typed(&mut state, "--"), Some(Action::Look(Duration::from_secs(1))));
    assert_eq!(typed(&mut state, "-"), Some(Action::Look(Duration::from_millis(500))));
    assert_eq!((typed(&mut state, "-"), state.interval()), (None, Duration::from_millis(500)));
}

#[test]
fn no_answer_keeps_what_was_read_and_the_next_answer_ends_the_trouble() {
    let mut state = state();
    let before = rows(&state);
    let why = "the daemon hung up".to_owned();
    let _ = state.step(Event::Failed(Trouble { at: Duration::from_secs(70), why: why.clone() }));
    assert_eq!((rows(&state), state.trouble().map(|trouble| &trouble.why)), (before, Some(&why)));
    let _ = state.step(reading_of(72, sessions()));
    assert_eq!(state.trouble(), None);
}

#[test]
fn any_keys_at_any_time_leave_something_selected_where_there_is_something() {
    let mut random = fastrand::Rng::with_seed(7);
    let keys = ['j', 'k', 'g', 'G', ' ', 's', '/', 'e', 'y', 'n', '?', '+', '-', 'w', 'q'];
    let mut state = small();
    for step in 0..5000 {
        let event = match random.u8(..10) {
            0 => {
                let some: Vec<SessionView> = sessions().into_iter().filter(|_| random.bool()).collect();
                reading_of(step, some)
            }
            1 => Event::Key([Key::Escape, Key::Backspace, Key::PageDown, Key::PageUp][random.usize(..4)]),
            _ => Event::Key(Key::Char(keys[random.usize(..keys.len())])),
        };
        let _ = state.step(event);
        let rows = state.rows();
        assert_eq!(state.position_in(&rows).is_some(), !rows.is_empty(), "after {step} steps: {state:?}");
    }
}
