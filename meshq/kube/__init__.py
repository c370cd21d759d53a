"""What meshq hands to Kubernetes: manifests."""
