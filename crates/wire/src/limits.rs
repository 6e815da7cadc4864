//! Sizes that every peer agrees on.

/// The longest full form of a command frame, in bytes: what one Command message takes on any link.
pub const MAX_FRAME_LEN: usize = 72 * 1024;

/// The longest body of a command frame, in bytes; with any header it fits [`MAX_FRAME_LEN`].
pub const MAX_BODY_LEN: usize = MAX_FRAME_LEN - 256;

/// The largest payload of one command, in bytes: its key and its value together.
pub const MAX_PAYLOAD_LEN: usize = 64 * 1024;

/// The longest key, in bytes.
pub const MAX_KEY_LEN: usize = 256;

/// The most commands in one frame.
pub const MAX_COMMANDS: usize = 1024;

/// How many bytes of a body may be something other than payload, for the body itself.
///
/// This and [`COMMAND_OVERHEAD`] keep an author from sending bytes that its budget does not pay.
pub const BODY_OVERHEAD: usize = 256;

/// How many bytes of a body may be something other than payload, for each command.
pub const COMMAND_OVERHEAD: usize = 256;
