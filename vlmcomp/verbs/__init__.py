"""What each verb of the command line does, and the options it takes."""
