"""Studies in and doses out over DICOM networks."""
