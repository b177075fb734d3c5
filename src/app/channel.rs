//! What a process and the one that is to take its place say to each other, over a pair of sockets
//! that keep messages apart. Open files travel with them, so that nothing has to be agreed on but
//! this: a message is one line of JSON and at most one file.
//!
//! Both ends may be of different versions. A message whose meaning changes gets another name.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, shutdown, socketpair,
};
use serde::{Deserialize, Serialize};

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// From the old process: that many sockets follow.
    Begin {
        /// How many.
        sockets: usize,
    },
    /// From the old process, with a listening socket.
    Socket {
        /// Which listener it is of.
        listener: String,
        /// Its address as it was configured.
        address: SocketAddr,
    },
    /// From the new process: everything else is in order, it needs the state folder now.
    WantsState,
    /// From the old process, with the lock of the state folder, into which it writes no more.
    State,
    /// From the new process: it can decide requests and accepts connections.
    Ready,
    /// From the old process: it has told who must know that the new one goes on alone.
    Over,
    /// From the new process: why it gives up.
    Failed {
        /// The reason.
        why: String,
    },
}

/// One end.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// The end that lies in `file`; none where that is no such socket. No terminal, pipe, file or
    /// socket of a service manager is one.
    pub(super) fn in_place_of(file: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        match socket_type(file) {
            Ok(SocketType::SEQPACKET) => Ok(Some(Self(file.try_clone_to_owned()?))),
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// How long a message may take in either direction from now on.
    pub(super) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        // Zero would be for ever.
        let patience = Some(patience.max(Duration::from_millis(1)));
        set_socket_timeout(&self.0, Timeout::Recv, patience)?;
        Ok(set_socket_timeout(&self.0, Timeout::Send, patience)?)
    }

    /// Sends a message, with a file or without. Blocks.
    pub(super) fn send(&self, message: &Message, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
        if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(io::Error::other("no room for a file beside a message"));
        }
        sendmsg(&self.0, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next message and the file with it. Blocks.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other process is gone, `WouldBlock` when it said nothing in time.
    pub(super) fn receive(&self) -> io::Result<(Message, Option<OwnedFd>)> {
        let mut text = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let files = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        let file = files.flatten().next();
        let message = serde_json::from_slice(text.get(..received.bytes).unwrap_or_default())?;
        Ok((message, file))
    }

    /// Ends the conversation, also for a `receive` that waits.
    pub(super) fn hang_up(&self) {
        // It may have ended by itself.
        shutdown(&self.0, Shutdown::Both).ok();
    }

    /// The file, to be another process's standard input.
    pub(super) fn into_file(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const MESSAGE_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_with_its_file() -> io::Result<()> {
        let (one, other) = Channel::pair()?;
        let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = socket.local_addr()?;
        let message = Message::Socket { listener: "gateway".to_owned(), address };
        one.send(&message, Some(socket.as_fd()))?;
        one.send(&Message::Ready, None)?;
        drop((one, socket));
        let (received, file) = other.receive()?;
        assert_eq!(received, message);
        let same = std::net::TcpListener::from(file.expect("the socket travels with the message"));
        assert_eq!(same.local_addr()?, address);
        let (received, file) = other.receive()?;
        assert!(received == Message::Ready && file.is_none());
        assert_eq!(other.receive().expect_err("nobody is there").kind(), io::ErrorKind::UnexpectedEof);
        Ok(())
    }

    #[test]
    fn a_file_or_another_socket_is_no_channel() -> io::Result<()> {
        let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
        assert!(Channel::in_place_of(socket.as_fd())?.is_none());
        assert!(Channel::in_place_of(tempfile::tempfile()?.as_fd())?.is_none());
        let (one, _other) = Channel::pair()?;
        assert!(Channel::in_place_of(one.as_fd())?.is_some());
        Ok(())
    }

    #[test]
    fn silence_ends_when_patience_does() -> io::Result<()> {
        let (one, _other) = Channel::pair()?;
        one.set_patience(Duration::from_millis(5))?;
        assert_eq!(one.receive().expect_err("nothing was said").kind(), io::ErrorKind::WouldBlock);
        Ok(())
    }
}
