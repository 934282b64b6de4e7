//! Retargets a call or branch in running code, or refuses.
