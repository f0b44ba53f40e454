//! The configuration of a plugin, typed.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::rc::Rc;

use serde::de::DeserializeOwned;

/// Parses the configuration as TOML; no configuration is an empty one.
///
/// An instance serves many requests with the same text, so the result is kept: one value for every `T`, as long as the
/// text stays the same. Use `#[serde(deny_unknown_fields)]`, so that a key with a typing error is not ignored.
///
/// # Errors
///
/// What is wrong, with line and key; fit to be returned by the entry point.
pub fn config<T: DeserializeOwned + 'static>(text: &Option<String>) -> Result<Rc<T>, String> {
    let text = text.as_deref().unwrap_or_default();
    PARSED.with_borrow_mut(|parsed| {
        let known = parsed.iter().position(|entry| entry.of == TypeId::of::<T>());
        if let Some(index) = known {
            if parsed[index].text == text
                && let Ok(value) = Rc::clone(&parsed[index].value).downcast()
            {
                return Ok(value);
            }
            parsed.swap_remove(index);
        }
        let value: Rc<T> = Rc::new(parse(text)?);
        parsed.push(Parsed { of: TypeId::of::<T>(), text: text.to_owned(), value: Rc::clone(&value) as Rc<dyn Any> });
        Ok(value)
    })
}

thread_local! {
    static PARSED: RefCell<Vec<Parsed>> = const { RefCell::new(Vec::new()) };
}

struct Parsed {
    of: TypeId,
    text: String,
    value: Rc<dyn Any>,
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|error| describe(error, text))
}

/// One line, as it goes into a log: `toml` by itself draws the offending line instead of naming the key.
fn describe(mut error: toml::de::Error, text: &str) -> String {
    let line = error.span().map(|span| 1 + text.bytes().take(span.start).filter(|&byte| byte == b'\n').count());
    error.set_input(None);
    let what = error.to_string();
    let what = what.trim_end().replace("\nin `", ", in `");
    match line {
        Some(line) => format!("configuration (TOML), line {line}: {what}"),
        None => format!("configuration (TOML): {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limits {
        rps: u32,
        #[serde(default, rename = "rule")]
        _rules: Vec<Rule>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        #[serde(rename = "path")]
        _path: String,
    }

    fn limits(text: &str) -> Result<Rc<Limits>, String> {
        config(&Some(text.to_owned()))
    }

    #[test]
    fn is_parsed_once_for_a_text() {
        let first = limits("rps = 1").unwrap();
        assert!(Rc::ptr_eq(&first, &limits("rps = 1").unwrap()));
        assert_eq!(limits("rps = 2").unwrap().rps, 2);
        assert_eq!(limits("rps = 1").unwrap().rps, 1);
    }

    #[test]
    fn an_error_leaves_nothing_behind() {
        assert_eq!(limits("rps = 1").unwrap().rps, 1);
        assert!(limits("rps = ").is_err());
        assert_eq!(limits("rps = 1").unwrap().rps, 1);
    }

    #[test]
    fn no_configuration_is_an_empty_one() {
        #[derive(serde::Deserialize)]
        struct Optional {
            rps: Option<u32>,
        }
        assert_eq!(config::<Optional>(&None).unwrap().rps, None);
        assert_eq!(config::<Limits>(&None).unwrap_err(), "configuration (TOML), line 1: missing field `rps`");
    }

    #[test]
    fn errors_name_line_and_key() {
        for (text, expected) in [
            ("\nrps = true", "configuration (TOML), line 2: invalid type: boolean `true`, expected u32, in `rps`"),
            ("rps = 1\nrsp = 2", "configuration (TOML), line 2: unknown field `rsp`, expected `rps` or `rule`"),
            ("rps = -1", "configuration (TOML), line 1: invalid value: integer `-1`, expected u32, in `rps`"),
            (
                "rps = 1\n[[rule]]\npath = 3",
                "configuration (TOML), line 3: invalid type: integer `3`, expected a string, in `rule.path`",
            ),
            ("rps = 1\n\n[[rule]]", "configuration (TOML), line 3: missing field `path`, in `rule`"),
        ] {
            assert_eq!(limits(text).unwrap_err(), expected, "{text}");
        }
    }
}
