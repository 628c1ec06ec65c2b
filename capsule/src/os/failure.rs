//! How the capsule's first process tells its parent what went wrong.

/// The steps that can fail. The numbers go over the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    Start,
    InsideRoot,
    Session,
    PrivateMounts,
    Root,
    Op,
    LeaveOldRoot,
    Hostname,
    Loopback,
    Console,
    Filter,
    User,
    WorkingDirectory,
    Exec,
}

impl Stage {
    const ALL: [Stage; 14] = [
        Stage::Start,
        Stage::InsideRoot,
        Stage::Session,
        Stage::PrivateMounts,
        Stage::Root,
        Stage::Op,
        Stage::LeaveOldRoot,
        Stage::Hostname,
        Stage::Loopback,
        Stage::Console,
        Stage::Filter,
        Stage::User,
        Stage::WorkingDirectory,
        Stage::Exec,
    ];

    /// What the stage does, for messages.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Stage::Start => "wait for the id maps",
            Stage::InsideRoot => "become root inside",
            Stage::Session => "start a session",
            Stage::PrivateMounts => "make the mount table private",
            Stage::Root => "take the new root",
            Stage::Op => "build the root",
            Stage::LeaveOldRoot => "leave the host's root",
            Stage::Hostname => "set the host name",
            Stage::Loopback => "bring the loopback link up",
            Stage::Console => "open the terminal",
            Stage::Filter => "install the system-call filter",
            Stage::User => "become the user",
            Stage::WorkingDirectory => "enter the working directory",
            Stage::Exec => "start the init",
        }
    }
}

/// What went wrong in the child: the stage, the index of the op, the error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub stage: Stage,
    pub index: u32,
    pub errno: i32,
}

impl Failure {
    /// Its size on the pipe.
    pub(super) const SIZE: usize = 9;

    pub(super) fn to_bytes(self) -> [u8; Self::SIZE] {
        let [a, b, c, d] = self.index.to_le_bytes();
        let [e, f, g, h] = self.errno.to_le_bytes();
        [self.stage as u8, a, b, c, d, e, f, g, h]
    }

    pub(super) fn from_bytes(bytes: [u8; Self::SIZE]) -> Option<Self> {
        let [stage, a, b, c, d, e, f, g, h] = bytes;
        Some(Failure {
            stage: *Stage::ALL.get(usize::from(stage))?,
            index: u32::from_le_bytes([a, b, c, d]),
            errno: i32::from_le_bytes([e, f, g, h]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_survive_the_pipe() {
        for stage in Stage::ALL {
            let failure = Failure { stage, index: 70_000, errno: 13 };
            assert_eq!(Failure::from_bytes(failure.to_bytes()), Some(failure));
        }
        assert_eq!(Failure::from_bytes([99; 9]), None);
    }
}
