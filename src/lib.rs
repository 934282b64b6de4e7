//! Storage and exit handlers for any stack.
