"""From sizes to packs: resolution, token dropping, bin packing, the plan of an epoch."""
