use thiserror::Error;

use super::MAX_TARGET;

/// Why something is not an entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Too long for a record.
    #[error("it has {bytes} bytes, more than {MAX_TARGET}")]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// The data of a URI record without its numbers.
    #[error("the record is cut off")]
    CutOff,
    /// Not one of ours.
    #[error("`{text}` is not of the form phantom://HOST:PORT/?key=…&node=…&at=…")]
    Form {
        /// What there is, shortened.
        text: String,
    },
    /// Neither name nor address.
    #[error("`{text}` is neither a host name nor an address of a node")]
    Host {
        /// What there is, shortened.
        text: String,
    },
    /// Not a port.
    #[error("`{text}` is no port (1 to 65535)")]
    Port {
        /// What there is, shortened.
        text: String,
    },
    /// Something is not there.
    #[error("{field} is missing")]
    Missing {
        /// What.
        field: &'static str,
    },
    /// A field that must be there once.
    #[error("{field} is there twice")]
    Twice {
        /// Which.
        field: &'static str,
    },
    /// More of something than is looked at.
    #[error("it has more than {most} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// A field that does not say what it should.
    #[error("{field}=`{text}` is not {wanted}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it says, shortened.
        text: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// The port is one for all addresses.
    #[error("its SRV records have different ports")]
    Ports,
}
