use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::file::{self, Digest};

/// The files that a configuration is made of, as they were just before they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs(BTreeMap<PathBuf, Option<Digest>>);

impl Inputs {
    /// Of a configuration file alone.
    pub fn of(config: &Path) -> Inputs {
        Inputs(BTreeMap::new()).with(&[config.to_owned()])
    }

    /// With these files, whether they can be read or not.
    pub fn with(mut self, files: &[PathBuf]) -> Inputs {
        self.0.extend(files.iter().map(|file| (file.clone(), digest(file))));
        self
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> + Clone {
        self.0.keys().map(PathBuf::as_path)
    }

    /// Whether this file is not what it was then.
    pub fn differ_in(&self, then: &Inputs, file: &Path) -> bool {
        self.0.get(file) != then.0.get(file)
    }

    /// Whether any of them is different now.
    pub fn have_changed(&self) -> bool {
        self.0.iter().any(|(file, before)| digest(file) != *before)
    }
}

fn digest(file: &Path) -> Option<Digest> {
    file::read(file).ok().map(|content| file::digest(&content))
}
