//! `docs/plugin-interface.md` shows every function and type of `wit/` as it is there, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use wit_component::WitPrinter;
use wit_parser::Resolve;

/// The declarations of each interface, on one line each: `del: func(key: string) -> result<bool, string>`.
type Interfaces = BTreeMap<String, BTreeSet<String>>;

#[test]
fn the_page_and_the_files_say_the_same() {
    let (declared, documented) = (declared(), documented());
    let names = |interfaces: &Interfaces| interfaces.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&documented), names(&declared), "the interfaces of the page, and those of wit/");
    let mut wrong = Vec::new();
    for (name, declarations) in &declared {
        let missing = declarations.difference(&documented[name]).map(|text| format!("{name}: no row for `{text}`"));
        let surplus = documented[name].difference(declarations).map(|text| format!("{name}: wit/ has no `{text}`"));
        wrong.extend(missing.chain(surplus));
    }
    assert!(wrong.is_empty(), "docs/plugin-interface.md differs from wit/:\n{}", wrong.join("\n"));
}

#[test]
fn every_function_has_phases_errors_and_an_example() {
    for row in rows(&page()).filter(|row| row.declarations.iter().any(|text| text.contains(": func("))) {
        assert_eq!(row.cells.len(), 4, "{:?}", row.cells);
        assert!(row.cells.iter().all(|cell| !cell.is_empty()), "{:?}", row.cells);
        let phases = row.cells[1].split([' ', ',']).next().unwrap_or_default();
        assert!(phases == "all" || "ASIPFL".contains(phases), "{:?}", row.cells);
        assert!(row.cells[3].contains('`'), "an example is code: {:?}", row.cells);
    }
}

/// A row of a table under the heading of an interface.
struct Row {
    interface: String,
    declarations: Vec<String>,
    cells: Vec<String>,
}

fn rows(page: &str) -> impl Iterator<Item = Row> {
    let mut interface = String::new();
    page.lines().filter_map(move |line| {
        if let Some(heading) = line.strip_prefix("## ") {
            interface = heading.to_owned();
        }
        let cells: Vec<_> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").map(str::to_owned).collect();
        let declarations = cells[0].split('`').step_by(2).map(str::to_owned).filter(|text| !text.is_empty()).collect();
        Some(Row { interface: interface.clone(), declarations, cells })
    })
}

fn documented() -> Interfaces {
    let mut interfaces = Interfaces::new();
    for row in rows(&page()) {
        for declaration in row.declarations {
            let new = interfaces.entry(row.interface.clone()).or_default().insert(declaration.clone());
            assert!(new, "two rows for `{declaration}`");
        }
    }
    interfaces
}

fn page() -> String {
    fs::read_to_string(root().join("docs/plugin-interface.md")).unwrap()
}

fn declared() -> Interfaces {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(root().join("wit")).unwrap();
    resolve.packages[package].interfaces.iter().map(|(name, id)| (name.clone(), declarations(&resolve, *id))).collect()
}

fn declarations(resolve: &Resolve, id: wit_parser::InterfaceId) -> BTreeSet<String> {
    let mut printer = WitPrinter::default();
    printer.emit_docs(false).print_interface(resolve, id).unwrap();
    let text = printer.output.to_string();
    let mut declarations = BTreeSet::new();
    let mut block = String::new();
    for line in text.lines().map(str::trim) {
        match line {
            _ if line.is_empty() || line.starts_with("use ") => {}
            "}" => {
                // The last comma is not written on the page.
                let block = std::mem::take(&mut block);
                declarations.insert(format!("{} }}", block.trim_end_matches([',', ' '])));
            }
            _ if line.ends_with(';') => drop(declarations.insert(line.trim_end_matches(';').to_owned())),
            _ => block += &format!("{line} "),
        }
    }
    declarations
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
