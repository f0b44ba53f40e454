//! Text with variables.

use serde::Deserialize;

/// Text in which `${NAME}` stands for a variable.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub struct Template(Vec<Part>);

enum Part {
    Text(String),
    Variable(String),
}

impl Template {
    /// The text, with what `variable` says about every name; nothing for a variable that is not known.
    pub fn expand(&self, variable: impl Fn(&str) -> Result<Option<String>, String>) -> Result<String, String> {
        let mut expanded = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => expanded.push_str(text),
                Part::Variable(name) => expanded.push_str(&variable(name)?.unwrap_or_default()),
            }
        }
        Ok(expanded)
    }
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').ok_or_else(|| format!("`${{{after}` has no `}}`"))?;
            if name.is_empty() {
                return Err("`${}` names no variable".to_owned());
            }
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Variable(name.to_owned()));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in() {
        let expand = |text: &str| {
            let template = Template::try_from(text.to_owned()).unwrap();
            template.expand(|name| Ok((name != "none").then(|| name.to_uppercase()))).unwrap()
        };
        assert_eq!(expand("plain $ text }"), "plain $ text }");
        assert_eq!(expand("${a}"), "A");
        assert_eq!(expand("<${a}|${none}|${b}>"), "<A||B>");
    }
}
