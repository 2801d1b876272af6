"""drivers/iommu/iommufd, by its file names."""
