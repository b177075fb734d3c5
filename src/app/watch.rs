//! Files that a reload depends on, and word that one of them changed.
//!
//! Folders are watched, not files: editors, certificate renewers and orchestrators replace a file by
//! renaming another over it, or swap a symbolic link beside it. What else happens in those folders,
//! such as the store's writes, counts for nothing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long the files must be left alone before a change counts: a pair is written one by one.
const SETTLE: Duration = Duration::from_millis(200);

/// Watches the folders of some files.
pub(super) struct FileWatch {
    watcher: RecommendedWatcher,
    files: Arc<RwLock<BTreeSet<PathBuf>>>,
    folders: BTreeSet<PathBuf>,
    touched: Arc<Notify>,
}

impl FileWatch {
    /// A watch over nothing yet.
    ///
    /// # Errors
    /// When the operating system has no watch to give.
    pub(super) fn new() -> notify::Result<Self> {
        let touched = Arc::new(Notify::new());
        let files = Arc::<RwLock<BTreeSet<PathBuf>>>::default();
        let (waker, watched) = (Arc::clone(&touched), Arc::clone(&files));
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error means that events were lost: better to look once too often.
            if event.map_or(true, |event| is_change(&event, &watched.read())) {
                waker.notify_one();
            }
        })?;
        Ok(Self { watcher, files, folders: BTreeSet::new(), touched })
    }

    /// Watches the folders of these files, and no others.
    pub(super) fn follow<'p>(&mut self, files: impl Iterator<Item = &'p Path>) {
        let files: BTreeSet<PathBuf> = files.map(as_reported).collect();
        let wanted: BTreeSet<PathBuf> = files.iter().map(|file| folder_of(file)).collect();
        *self.files.write() = files;
        for gone in self.folders.difference(&wanted) {
            // A folder that is gone already has no watch left to take back.
            self.watcher.unwatch(gone).ok();
        }
        for new in wanted.difference(&self.folders) {
            if let Err(error) = self.watcher.watch(new, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %new.display(), %error, "changes in this folder will not be noticed; reload by SIGHUP");
            }
        }
        self.folders = wanted;
    }

    /// Returns once something was touched and then left alone for a moment.
    pub(super) async fn changed(&self) {
        self.touched.notified().await;
        while timeout(SETTLE, self.touched.notified()).await.is_ok() {}
    }
}

/// Whether one of `files` may be another than before. Reading them makes events of its own.
fn is_change(event: &notify::Event, files: &BTreeSet<PathBuf>) -> bool {
    // Kubernetes swaps the link `..data` beside the files, which are links through it.
    let is_swap = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".."));
    !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(|path| files.contains(path) || is_swap(path))
}

/// The file's path as events name it: its folder's, and its name.
fn as_reported(file: &Path) -> PathBuf {
    folder_of(file).join(file.file_name().unwrap_or(OsStr::new("")))
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
        None => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{AccessKind, CreateKind, EventAttributes, ModifyKind};
    use std::fs;

    #[tokio::test]
    async fn a_file_replaced_by_rename_is_noticed() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("keyward.toml");
        fs::write(&file, "one")?;
        let mut watch = FileWatch::new()?;
        watch.follow([file.as_path()].into_iter());
        fs::write(folder.path().join("new"), "two")?;
        fs::rename(folder.path().join("new"), &file)?;
        timeout(Duration::from_secs(10), watch.changed()).await?;
        Ok(())
    }

    #[test]
    fn other_files_of_the_folder_count_for_nothing() {
        let files = BTreeSet::from([as_reported(Path::new("keyward.toml")), as_reported(Path::new("tls/api.pem"))]);
        let touched = |kind, path: &str| {
            let event = notify::Event { kind, paths: vec![PathBuf::from(path)], attrs: EventAttributes::default() };
            is_change(&event, &files)
        };
        let modified = EventKind::Modify(ModifyKind::Any);
        assert!(touched(modified, "./keyward.toml"));
        assert!(touched(modified, "tls/api.pem"));
        assert!(touched(EventKind::Create(CreateKind::Any), "tls/..data"));
        assert!(!touched(modified, "./keyward.db-wal"));
        assert!(!touched(EventKind::Access(AccessKind::Read), "./keyward.toml"));
    }
}
