//! What the keys do and what the columns mean, as the screen tells it.

/// Keys or a column, and what it is: short enough for the narrowest screen.
pub(super) const HELP: [(&str, &str); 13] = [
    ("↑ ↓, k j", "select; also PgUp, PgDn"),
    ("Enter, Space", "fold a session, unfold it"),
    ("s", "sort by something else"),
    ("/", "filter; Esc shows all"),
    ("e", "end it, after a question"),
    ("+ -", "look less often, or more"),
    ("q, Ctrl-C", "quit"),
    ("", ""),
    ("█▌···", "working set against LIMIT"),
    ("TREND", "RSS of late, least to most"),
    ("CPU", "in percent of one CPU"),
    ("PSI", "time waited for memory"),
    ("ESCAPED", "stands outside its leaf"),
];
