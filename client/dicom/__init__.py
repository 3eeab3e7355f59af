"""DICOM-RT in and out; foreign files are parsed in a process of their own."""
