"""Model, processor and gallery joined: what TGDTRetriever is made of."""
