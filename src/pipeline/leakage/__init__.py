"""Find source images that (nearly) are images of a target's validation or test part."""
