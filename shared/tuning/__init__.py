"""The domain that the author's side and the three images agree on. It knows none of them."""
