use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::diagnostic::nearest;
use super::keys::{LEVELS, Level};
use super::leaf::Leaf;
use super::{Diagnostic, Diagnostics, Span};

/// A table of a kind.
pub trait FromTable: Sized {
    const LEVEL: &'static Level;

    fn read(reader: &mut Reader) -> Self;
}

/// Takes keys out of one table by name, and reports what is wrong with them instead of stopping.
pub struct Reader<'t, 's> {
    table: &'t DeTable<'s>,
    span: Span,
    level: &'static Level,
    diagnostics: &'t mut Diagnostics,
}

/// Reads the table; its unknown keys are reported.
pub fn read_table<T: FromTable>(table: &DeTable, span: Span, diagnostics: &mut Diagnostics) -> T {
    let mut reader = Reader { table, span, level: T::LEVEL, diagnostics };
    reader.report_unknown_keys();
    T::read(&mut reader)
}

impl<'t, 's> Reader<'t, 's> {
    /// Of the table: its header, or all of an inline table.
    pub fn span(&self) -> Span {
        self.span.clone()
    }

    pub fn diagnostics(&mut self) -> &mut Diagnostics {
        self.diagnostics
    }

    /// The span of the key, if it is there.
    pub fn key(&self, name: &str) -> Option<Span> {
        self.table.get_key_value(name).map(|(key, _)| key.span())
    }

    /// Whether the key is an empty list.
    pub fn is_empty(&self, name: &str) -> bool {
        self.table.get(name).and_then(|value| value.get_ref().as_array()).is_some_and(|items| items.is_empty())
    }

    /// The keys of the table, in the order of the file.
    pub fn keys(&self) -> Vec<Spanned<String>> {
        let mut keys: Vec<_> = self.table.keys().map(owned).collect();
        keys.sort_by_key(|key| key.span().start);
        keys
    }

    pub fn leaf<L: Leaf>(&mut self, name: &'static str) -> Option<Spanned<L>> {
        let value = self.value(name)?;
        self.read_leaf(name, value)
    }

    /// As `leaf`, where nothing has to be said of the place.
    pub fn plain<L: Leaf>(&mut self, name: &'static str) -> Option<L> {
        self.leaf(name).map(Spanned::into_inner)
    }

    /// As `leaf`, for a key that must be there.
    pub fn required<L: Leaf>(&mut self, name: &'static str) -> Option<Spanned<L>> {
        if self.key(name).is_none() {
            let missing = Diagnostic::error(self.span(), format!("missing `{name}` in {}", self.level.name));
            self.diagnostics.push_absent(missing.help(format!("add `{}`", self.example(name))));
        }
        self.leaf(name)
    }

    pub fn leaves<L: Leaf>(&mut self, name: &'static str) -> Option<Vec<Spanned<L>>> {
        let value = self.value(name)?;
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(name, value, "a list");
            return None;
        };
        Some(items.iter().filter_map(|item| self.read_leaf(name, item)).collect())
    }

    /// As `leaves`, where nothing has to be said of the places; none where the key is not there.
    pub fn plain_all<L: Leaf>(&mut self, name: &'static str) -> Vec<L> {
        self.leaves(name).unwrap_or_default().into_iter().map(Spanned::into_inner).collect()
    }

    /// The values of a table whose keys are free.
    pub fn named_leaves<L: Leaf>(&mut self, name: &'static str) -> Vec<(Spanned<String>, Spanned<L>)> {
        self.named(name, Self::read_leaf)
    }

    pub fn table<T: FromTable>(&mut self, name: &'static str) -> Option<T> {
        let value = self.value(name)?;
        self.read_value(name, value)
    }

    /// A list of tables. Where a single one stands it is reported and taken as a list of one.
    pub fn tables<T: FromTable>(&mut self, name: &'static str) -> Option<Vec<T>> {
        let value = self.value(name)?;
        if let DeValue::Array(items) = value.get_ref() {
            return Some(items.iter().filter_map(|item| self.read_value(name, item)).collect());
        }
        if !value.get_ref().is_table() {
            self.wrong_type(name, value, "a list of tables");
            return None;
        }
        let span = value.span();
        let written = self.diagnostics.source().get(span.clone()).unwrap_or_default();
        let help = if written.starts_with('[') {
            format!("write `[{written}]`, with double brackets")
        } else {
            format!("write it as a list: `{}`", self.example(name))
        };
        self.diagnostics
            .push(Diagnostic::error(span, format!("`{name}` is a list of tables, not one table")).help(help));
        self.read_value(name, value).map(|table| vec![table])
    }

    /// A table of tables whose keys are free.
    pub fn named_tables<T: FromTable>(&mut self, name: &'static str) -> Vec<(Spanned<String>, T)> {
        self.named(name, Self::read_value)
    }

    /// The entries of a table whose keys are free, each read so.
    fn named<R>(
        &mut self,
        name: &'static str,
        read: impl Fn(&mut Self, &str, &Spanned<DeValue>) -> Option<R>,
    ) -> Vec<(Spanned<String>, R)> {
        let Some(value) = self.value(name) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(name, value, "a table");
            return Vec::new();
        };
        let mut entries: Vec<_> = table.iter().map(|(key, value)| (owned(key), value)).collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let read = |(key, value): (Spanned<String>, _)| {
            let shown = format!("{name}.{}", super::key(key.get_ref()));
            Some((key, read(self, &shown, value)?))
        };
        entries.into_iter().filter_map(read).collect()
    }

    fn value(&self, name: &'static str) -> Option<&'t Spanned<DeValue<'s>>> {
        debug_assert!(self.level.key(name).is_some(), "`{name}` must be among the keys of {}", self.level.name);
        self.table.get(name)
    }

    /// The value of a key, or of one within it: `upstream.a`.
    fn read_value<T: FromTable>(&mut self, name: &str, value: &Spanned<DeValue>) -> Option<T> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(name, value, "a table");
            return None;
        };
        Some(read_table(table, value.span(), self.diagnostics))
    }

    fn read_leaf<L: Leaf>(&mut self, name: &str, value: &Spanned<DeValue>) -> Option<Spanned<L>> {
        let leaf = L::from_value(value.get_ref());
        if leaf.is_none() {
            self.wrong_type(name, value, L::EXPECTED);
        }
        leaf.map(|leaf| Spanned::new(value.span(), leaf))
    }

    fn wrong_type(&mut self, name: &str, value: &Spanned<DeValue>, expected: &str) {
        let found = match value.get_ref() {
            DeValue::String(text) => format!("{:?}", shortened(text)),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        let wrong = Diagnostic::error(value.span(), format!("`{name}` takes {expected}, not {found}"));
        let help = match value.get_ref().as_str().and_then(|written| word_meant(expected, written)) {
            Some(word) => format!("did you mean `\"{word}\"`?"),
            None => format!("for example: `{}`", self.example(name.split('.').next().unwrap_or(name))),
        };
        self.diagnostics.push(wrong.help(help));
    }

    fn example(&self, name: &str) -> &'static str {
        self.level.key(name).map_or("", |key| key.example)
    }

    fn report_unknown_keys(&mut self) {
        for key in self.keys() {
            let name = key.get_ref().as_str();
            if self.level.key(name).is_none() {
                let unknown = Diagnostic::error(key.span(), format!("unknown key `{name}` in {}", self.level.name));
                self.diagnostics.push(unknown.help(self.help_for_unknown(name)));
            }
        }
    }

    fn help_for_unknown(&self, name: &str) -> String {
        let known = ELSEWHERE.iter().find(|(others, here, _)| others.contains(&name) && self.level.key(here).is_some());
        if let Some((_, here, written)) = known {
            return format!("here it is called `{here}`: {written}");
        }
        let has = |level: &&&Level| level.keys.iter().any(|key| key.name == name);
        let homes: Vec<_> = LEVELS.iter().filter(has).map(|level| level.place).collect();
        if !homes.is_empty() {
            return format!("`{name}` belongs in {}", homes.join(" or "));
        }
        let keys: Vec<_> = self.level.keys().map(|key| key.name).collect();
        match nearest(name, keys.iter().copied()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("the keys of {} are {}", self.level.name, keys.join(", ")),
        }
    }
}

/// Names of keys in Envoy, in Istio, and in the tables beside this one; what they are called here, and how it is written.
const ELSEWHERE: &[(&[&str], &str, &str)] = &[
    (
        &["fail_open", "failStrategy", "on_failure"],
        "failure_policy",
        "`failure_policy = \"open\"` lets requests through when the filter fails, `\"closed\"`, the default, does not",
    ),
    (
        &["fail_open", "failStrategy", "failure_policy"],
        "on_failure",
        "`on_failure = \"open\"` lets requests through when the script fails, `\"close\"` does not",
    ),
    (&["pluginName"], "root_id", "`root_id = \"auth\"`"),
    (&["pluginConfig", "plugin_config", "config"], "configuration", "`configuration = '''{ \"realm\": \"staff\" }'''`"),
    (&["config"], "wasm_main_config", "`wasm_main_config = '''rps = 100'''`"),
    (&["environment_variables", "envs"], "env", "`env = { NAME = \"value\" }`"),
    (&["capability_restriction_config"], "allowed_capabilities", "`allowed_capabilities = [\"proxy_log\"]`"),
    (&["url"], "remote", "`remote = { url = \"https://plugins.example.cn/auth.wasm\", sha256 = \"…\" }`"),
    (&["url"], "wasm_path", "`wasm_path = \"plugin.wasm\"`"),
    (&["timeout_ms", "timeout"], "limits", "`limits = { wall_ms = 10000 }`"),
];

/// Of the words that a key takes, the one that is meant: `FAIL_OPEN` is `open`.
fn word_meant<'e>(expected: &'e str, written: &str) -> Option<&'e str> {
    if !expected.starts_with('"') {
        return None;
    }
    let words = || expected.split('"').skip(1).step_by(2);
    let written = written.to_ascii_lowercase();
    nearest(&written, words()).or_else(|| nearest(written.rsplit('_').next()?, words()))
}

fn owned(key: &Spanned<DeString>) -> Spanned<String> {
    Spanned::new(key.span(), key.get_ref().to_string())
}

/// The text, or the beginning of a long one.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
