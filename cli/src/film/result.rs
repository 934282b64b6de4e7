//! The result of what can fail while a film is made: the error is a text for the user.

use std::error::Error;

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
