//! Hears of changes to files. What is watched are folders: editors and build tools replace a file by renaming another
//! over it, and Kubernetes by leading a link elsewhere.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// More links than this on the way to a file lead in circles.
const MOST_LINKS: usize = 40;

/// Tells of changes until it is dropped.
pub struct Watch(#[expect(dead_code, reason = "its drop is what it is for")] RecommendedWatcher);

impl Watch {
    /// Wakes whoever waits for `changed` when one of these files may have become another.
    ///
    /// # Errors
    /// When the system lets nothing be watched.
    pub fn start<'p>(files: impl Iterator<Item = &'p Path> + Clone, changed: &Arc<Notify>) -> notify::Result<Watch> {
        loop {
            let now = || files.clone().flat_map(places).collect::<BTreeSet<_>>();
            let watched = now();
            let watch = Watch::on(watched.clone(), changed.clone())?;
            // A folder may have come before it was watched: what happens in it would go unseen.
            if now() == watched {
                return Ok(watch);
            }
        }
    }

    fn on(mut places: BTreeSet<PathBuf>, changed: Arc<Notify>) -> notify::Result<Watch> {
        let folders: BTreeSet<PathBuf> = places.iter().filter_map(|place| place.parent()).map(Path::to_owned).collect();
        // That a folder itself is moved away is told by its own name.
        places.extend(folders.iter().cloned());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Without an answer, something may have been missed.
            if event.map_or(true, |event| concerns(&event, &places)) {
                changed.notify_one();
            }
        })?;
        for folder in &folders {
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                log::error!("the folder {} cannot be watched: {error}", folder.display());
            }
        }
        Ok(Watch(watcher))
    }
}

fn concerns(event: &Event, places: &BTreeSet<PathBuf>) -> bool {
    let reads = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
    event.need_rescan() || !reads && event.paths.iter().any(|path| places.contains(path))
}

/// Where the way to a file can change: each link on it and the file itself, or the first part that is not there. All in
/// folders that are there and are no links.
fn places(file: &Path) -> Vec<PathBuf> {
    let mut places = Vec::new();
    let Ok(file) = std::path::absolute(file) else { return places };
    let mut rest: VecDeque<OsString> = parts(&file).collect();
    let mut at = PathBuf::from("/");
    while let Some(part) = rest.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => at = "/".into(),
            Some(Component::ParentDir) => drop(at.pop()),
            Some(Component::Normal(_)) => {
                let here = at.join(&part);
                match here.read_link() {
                    Ok(target) if places.len() < MOST_LINKS => {
                        places.push(here);
                        let way: Vec<_> = parts(&target).collect();
                        way.into_iter().rev().for_each(|part| rest.push_front(part));
                    }
                    _ if !rest.is_empty() && here.is_dir() => at = here,
                    _ => {
                        places.push(here);
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    places
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().map(|part| part.as_os_str().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_link_on_the_way_is_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("v1/deep")).unwrap();
        fs::write(root.join("v1/deep/a.wasm"), "").unwrap();
        symlink("v1", root.join("..data")).unwrap();
        symlink("..data/deep/../deep/a.wasm", root.join("a.wasm")).unwrap();
        let expected = ["a.wasm", "..data", "v1/deep/a.wasm"].map(|place| root.join(place));
        assert_eq!(places(&root.join("a.wasm")), expected);
    }

    #[test]
    fn of_what_is_not_there_the_first_part_is_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        assert_eq!(places(&root.join("no/such/a.wasm")), [root.join("no")]);
        symlink("circle", root.join("circle")).unwrap();
        assert!(places(&root.join("circle/a.wasm")).iter().all(|place| *place == root.join("circle")));
    }
}
