"""The CNI side: the plugin's shims, the server they call, and what an attachment is."""
