//! A host's file as a tree whose every part knows which bytes it is, for edits that leave all other bytes alone.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, StructureStyle};
use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::places::Tree;
use super::{AS_HOSTS_WRITE_IT, Syntax};

/// How the parts of a table or a list stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Between brackets, with commas.
    Flow,
    /// On lines of their own: TOML below a header, YAML by its indentation.
    Block,
}

/// A part of a file.
#[derive(Debug)]
pub(super) struct Node {
    /// Its bytes: with its quotes or brackets, without what is said before it (an anchor, a dash).
    pub(super) span: Range<usize>,
    /// What it is.
    pub(super) what: What,
}

/// What a part of a file is.
#[derive(Debug)]
pub(super) enum What {
    Table(Vec<Field>, Layout),
    List(Vec<Node>, Layout),
    Text(String),
    /// A number, a flag, nothing; and in YAML what an anchor names or a tag changes: that is more than its own bytes.
    Other,
}

/// A field of a table.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    /// The bytes of its name.
    pub(super) key: Range<usize>,
    pub(super) value: Node,
}

impl Node {
    fn new(span: Range<usize>, what: What) -> Self {
        Self { span, what }
    }

    /// The value of a text.
    pub(super) fn text(&self) -> Option<&str> {
        if let What::Text(text) = &self.what { Some(text) } else { None }
    }
}

impl Tree for Node {
    fn fields(&self) -> Option<Vec<(&str, &Self)>> {
        let What::Table(fields, _) = &self.what else { return None };
        Some(fields.iter().map(|field| (field.name.as_str(), &field.value)).collect())
    }
}

/// The tree of a text that the syntax's reader has taken already, which bounds its depth and its size; `None` where it is no
/// single tree.
pub(super) fn tree(syntax: Syntax, text: &str) -> Option<Node> {
    match syntax {
        Syntax::Json => {
            let parsed = jsonc_parser::parse_to_ast(text, &Default::default(), &AS_HOSTS_WRITE_IT).ok()?;
            Some(json(&parsed.value?))
        }
        Syntax::Toml => {
            let root = DeTable::parse(text).ok()?;
            Some(Node::new(root.span(), What::Table(toml_fields(text, root.get_ref(), Layout::Block), Layout::Block)))
        }
        Syntax::Yaml => yaml(text),
    }
}

fn json(value: &ast::Value<'_>) -> Node {
    let range = value.range();
    let what = match value {
        ast::Value::StringLit(text) => What::Text(text.value.to_string()),
        ast::Value::Array(array) => What::List(array.elements.iter().map(json).collect(), Layout::Flow),
        ast::Value::Object(object) => What::Table(object.properties.iter().map(json_field).collect(), Layout::Flow),
        ast::Value::NumberLit(_) | ast::Value::BooleanLit(_) | ast::Value::NullKeyword(_) => What::Other,
    };
    Node::new(range.start..range.end, what)
}

fn json_field(property: &ast::ObjectProp<'_>) -> Field {
    let key = property.name.range();
    Field { name: property.name.as_str().to_owned(), key: key.start..key.end, value: json(&property.value) }
}

fn toml_fields(text: &str, table: &DeTable<'_>, layout: Layout) -> Vec<Field> {
    let field = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let name: &Spanned<std::borrow::Cow<'_, str>> = name;
        Field { name: name.get_ref().to_string(), key: name.span(), value: toml_value(text, value, layout) }
    };
    table.iter().map(field).collect()
}

fn toml_value(text: &str, value: &Spanned<DeValue<'_>>, around: Layout) -> Node {
    let span = value.span();
    let what = match value.get_ref() {
        DeValue::String(value) => What::Text(value.to_string()),
        DeValue::Array(array) => {
            let items = array.iter().map(|item| toml_value(text, item, Layout::Flow)).collect();
            // An array of tables has no brackets of its own.
            if text.get(span.clone()).is_some_and(|own| own.starts_with('[') && own.ends_with(']')) {
                What::List(items, Layout::Flow)
            } else {
                What::Other
            }
        }
        DeValue::Table(table) => {
            // What is inside of braces stays inside, dotted names too.
            let inline = text.get(span.clone()).is_some_and(|own| own.starts_with('{'));
            let layout = if inline { Layout::Flow } else { around };
            What::Table(toml_fields(text, table, layout), layout)
        }
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => What::Other,
    };
    Node::new(span, what)
}

/// A table or a list of YAML that has not ended.
struct Open {
    start: usize,
    /// `None` for a list.
    table: Option<Vec<Field>>,
    items: Vec<Node>,
    key: Option<(String, Range<usize>)>,
    layout: Layout,
    /// An anchor or a tag stands before it.
    marked: bool,
}

impl Open {
    fn new(start: usize, is_table: bool, style: StructureStyle, marked: bool) -> Self {
        let layout = if style == StructureStyle::Flow { Layout::Flow } else { Layout::Block };
        Self { start, table: is_table.then(Vec::new), items: Vec::new(), key: None, layout, marked }
    }

    fn close(self, end: usize) -> Node {
        let what = match self.table {
            _ if self.marked => What::Other,
            Some(fields) => What::Table(fields, self.layout),
            None => What::List(self.items, self.layout),
        };
        Node::new(self.start..end, what)
    }

    fn add(&mut self, node: Node) {
        match (&mut self.table, self.key.take()) {
            (None, _) => self.items.push(node),
            (Some(fields), Some((name, key))) => fields.push(Field { name, key, value: node }),
            (Some(_), None) => {
                // A name that is no text names nothing that is looked for.
                let name = node.text().unwrap_or_default().to_owned();
                self.key = Some((name, node.span));
            }
        }
    }
}

fn yaml(text: &str) -> Option<Node> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.ok()?;
        let span = span.byte_range()?;
        let done = match event {
            Event::MappingStart(style, anchor, tag) => {
                open.push(Open::new(span.start, true, style, anchor != 0 || tag.is_some()));
                continue;
            }
            Event::SequenceStart(style, anchor, tag) => {
                open.push(Open::new(span.start, false, style, anchor != 0 || tag.is_some()));
                continue;
            }
            Event::MappingEnd | Event::SequenceEnd => open.pop()?.close(span.end),
            Event::Scalar(value, style, anchor, tag) => {
                let nothing = style == ScalarStyle::Plain && matches!(&*value, "" | "~" | "null" | "Null" | "NULL");
                let plain = anchor == 0 && tag.is_none() && !nothing;
                Node::new(span, if plain { What::Text(value.into_owned()) } else { What::Other })
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => Node::new(span, What::Other),
            // A second document.
            Event::DocumentStart(..) if root.is_some() => return None,
            _ => continue,
        };
        match open.last_mut() {
            Some(around) => around.add(done),
            None => root = Some(done),
        }
    }
    root
}
