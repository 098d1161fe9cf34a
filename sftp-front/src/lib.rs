#![warn(missing_docs)]
#![doc = "draft"]
mod answers; mod attrs; mod engine; mod facts; mod longname; mod packet; mod path; mod tree;
pub use facts::*; pub use path::*; pub use tree::*; pub use engine::{MAX_HANDLES, MAX_CLOSED_NAMES};
