"""Documents of users to events: `xmtl predict`, in this process or on Ray. Imports inference, cluster and below."""
