"""The one-shot process that makes streams, buckets and registry what the settings say."""
