//! Whether anything is left when a room has been left.

/// Tasks and sockets of this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Census {
    pub(crate) tasks: usize,
    /// `None` where the system does not tell.
    pub(crate) sockets: Option<usize>,
}

impl Census {
    /// Counts what there is now. Call on a tokio runtime.
    pub(crate) fn take() -> Self {
        Self {
            tasks: tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks(),
            sockets: count_sockets(),
        }
    }

    /// What is there now and was not there at `self`.
    pub(crate) fn since(self) -> Self {
        let now = Self::take();
        Self {
            tasks: now.tasks.saturating_sub(self.tasks),
            sockets: now
                .sockets
                .zip(self.sockets)
                .map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

fn count_sockets() -> Option<usize> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?;
    let is_socket = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    Some(open.flatten().filter(is_socket).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_forgotten_task_and_socket_are_found() {
        let before = Census::take();
        let _socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let task = tokio::spawn(std::future::pending::<()>());
        let left = before.since();
        assert_eq!(left.tasks, 1);
        if cfg!(target_os = "linux") {
            assert_eq!(left.sockets, Some(1));
        }
        task.abort();
    }
}
