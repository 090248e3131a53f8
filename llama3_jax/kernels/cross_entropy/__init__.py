"""Next-token cross entropy; `chunked.cross_entropy` is the public function."""
