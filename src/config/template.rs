use std::ops::Range;

use thiserror::Error;

use super::diagnostic::nearest;
use crate::variables::{self, Variable};

/// Text with variables in it: `${client_ip} says "${http_request_uri}"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Literal(String),
    Variable(Variable),
}

/// Why a text is no template, and where in it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TemplateError {
    #[error("there is no variable `{name}`")]
    Unknown { name: String, at: Range<usize> },
    #[error("`${{` is never closed")]
    Unclosed { at: Range<usize> },
}

impl Template {
    /// Errors are all that the text has, in its order.
    pub fn parse(text: &str) -> Result<Template, Vec<TemplateError>> {
        let mut parts = Vec::new();
        let mut errors = Vec::new();
        let mut at = 0;
        while let Some(open) = text[at..].find("${").map(|offset| at + offset) {
            if open > at {
                parts.push(Part::Literal(text[at..open].to_owned()));
            }
            let Some(close) = text[open..].find('}').map(|offset| open + offset) else {
                errors.push(TemplateError::Unclosed { at: open..text.len() });
                return Err(errors);
            };
            let name = &text[open + 2..close];
            match variables::parse(name) {
                Some(variable) => parts.push(Part::Variable(variable)),
                None => errors.push(TemplateError::Unknown { name: name.to_owned(), at: open..close + 1 }),
            }
            at = close + 1;
        }
        if at < text.len() {
            parts.push(Part::Literal(text[at..].to_owned()));
        }
        if errors.is_empty() { Ok(Template { parts }) } else { Err(errors) }
    }
}

impl TemplateError {
    /// The bytes of the text that are wrong.
    pub fn at(&self) -> Range<usize> {
        match self {
            TemplateError::Unknown { at, .. } | TemplateError::Unclosed { at } => at.clone(),
        }
    }

    /// What to write instead.
    pub fn help(&self) -> String {
        match self {
            TemplateError::Unclosed { .. } => "close it with `}`: `${client_ip}`".to_owned(),
            TemplateError::Unknown { name, .. } => match nearest(name, Variable::names()) {
                Some(known) if known.ends_with('_') => format!("did you mean `${{{known}NAME}}`?"),
                Some(known) => format!("did you mean `${{{known}}}`?"),
                None => {
                    let names: Vec<_> = Variable::names().filter(|name| !name.ends_with('_')).collect();
                    format!("the variables are {}, http_header_NAME, http_resp_header_NAME", names.join(", "))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_variables() {
        let template = Template::parse("a ${status}${domain} $b}").unwrap();
        assert_eq!(
            template.parts,
            [
                Part::Literal("a ".into()),
                Part::Variable(Variable::Status),
                Part::Variable(Variable::Domain),
                Part::Literal(" $b}".into()),
            ]
        );
        assert_eq!(Template::parse("").unwrap().parts, []);
    }

    #[test]
    fn every_error_is_found() {
        let errors = Template::parse("${stats} ${} ${domain").unwrap_err();
        assert_eq!(errors.iter().map(TemplateError::at).collect::<Vec<_>>(), [0..8, 9..12, 13..21]);
        assert_eq!(errors[0].help(), "did you mean `${status}`?");
        assert_eq!(errors[2].to_string(), "`${` is never closed");
    }
}
