//! Files that a reload depends on, and word that one of them changed.
//!
//! Folders are watched, not files: editors, certificate renewers and orchestrators replace a file by
//! renaming another over it, or swap a symbolic link beside it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long the files must be left alone before a change counts: a pair is written one by one.
const SETTLE: Duration = Duration::from_millis(200);

/// Watches the folders of some files.
pub(super) struct FileWatch {
    watcher: RecommendedWatcher,
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
        let waker = Arc::clone(&touched);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the files again makes access events of its own; they are no change.
            if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                waker.notify_one();
            }
        })?;
        Ok(Self { watcher, folders: BTreeSet::new(), touched })
    }

    /// Watches the folders of these files, and no others.
    pub(super) fn follow<'p>(&mut self, files: impl Iterator<Item = &'p Path>) {
        let wanted: BTreeSet<PathBuf> = files.map(folder_of).collect();
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
}
