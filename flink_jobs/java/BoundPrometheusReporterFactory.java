package org.apache.flink.metrics.prometheus;

import java.io.IOException;
import java.util.Properties;
import org.apache.flink.metrics.reporter.MetricReporter;
import org.apache.flink.metrics.reporter.MetricReporterFactory;

/** Makes the reporter from metrics.reporter.NAME.host and metrics.reporter.NAME.port. */
public class BoundPrometheusReporterFactory implements MetricReporterFactory {
    public MetricReporter createMetricReporter(Properties settings) {
        String host = settings.getProperty("host");
        String port = settings.getProperty("port");
        try {
            return new BoundPrometheusReporter(host, Integer.parseInt(port));
        } catch (IOException error) {
            throw new IllegalStateException("cannot listen on " + host + ":" + port, error);
        }
    }
}
